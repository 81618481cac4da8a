"""Tasks on text: how rows become token ids, which head, how outputs become answers, which scores."""

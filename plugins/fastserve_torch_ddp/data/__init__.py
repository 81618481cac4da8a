"""The training rows: tokenized once, and cut into batches."""

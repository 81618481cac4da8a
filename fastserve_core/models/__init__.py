"""The model that a run starts from: resolved, downloaded, converted."""

"""Multi-label classification: any number of labels for a text, or for a pair of texts."""

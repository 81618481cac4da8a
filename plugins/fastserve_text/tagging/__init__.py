"""Tags of words: their schemes, the words of a text, and texts of any length in windows."""

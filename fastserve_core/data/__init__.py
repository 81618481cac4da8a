"""Data sets: prepared once, split, kept as rows on the disk."""

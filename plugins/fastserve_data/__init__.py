"""Data sources: files, demo sets, and the Hugging Face hub."""

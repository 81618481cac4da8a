"""Extractive question answering: the answer to a question as a part of a text."""

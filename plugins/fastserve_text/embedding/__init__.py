"""Embedding: a vector for a text, close to those of texts of a similar meaning."""

"""Reranking: how well a document answers a query, from both texts at once."""

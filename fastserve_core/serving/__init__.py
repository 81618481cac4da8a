"""Serving an artifact, and the client of a server."""

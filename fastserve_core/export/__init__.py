"""Models in the formats of other runtimes, verified against the original."""

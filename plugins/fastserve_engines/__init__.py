"""Inference engines: load an artifact, answer a batch."""

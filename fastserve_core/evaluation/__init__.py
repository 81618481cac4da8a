"""Measurements of a model, timing in pairs, and the gate."""

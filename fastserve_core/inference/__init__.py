"""Engines, and the predictor that answers raw inputs with one."""

"""Which weights are trained: all, those of adapters, or some parts."""

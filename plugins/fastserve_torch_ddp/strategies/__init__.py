"""Parallel strategies: how the ranks of a training share one model, its gradients and its optimizer."""

"""Rendezvous of several machines for one training."""

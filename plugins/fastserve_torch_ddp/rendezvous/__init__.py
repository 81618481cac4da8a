"""How several machines come together for one training."""

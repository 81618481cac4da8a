"""How the model computes: number formats, and what a CPU does in another way."""

"""What is kept of a training: looks at the validation split, checkpoints, the best weights."""

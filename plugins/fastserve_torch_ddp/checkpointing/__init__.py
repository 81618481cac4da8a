"""The state of a training on disk: evaluation results, checkpoints, and the best weights."""

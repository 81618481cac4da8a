"""The optimizer, its parameter groups and schedules, the losses, and the moving average of the weights."""

"""Number formats of a training, and faster CPU implementations of attention and dropout."""

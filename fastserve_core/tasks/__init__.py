"""What a task is, and how one generates text."""

"""Text generation: requests, scheduling, sampling and streaming of many sequences at a time."""

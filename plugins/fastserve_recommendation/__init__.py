"""Recommendation: the task ``next_item``, its models, and its readers of interactions."""

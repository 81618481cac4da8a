"""Observers of a run: progress in the terminal, and a report when it is done."""

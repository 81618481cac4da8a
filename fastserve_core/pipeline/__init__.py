"""The run: its plan, its stages, and the record of what they gave."""

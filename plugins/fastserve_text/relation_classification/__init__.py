"""The relation between two entities that are marked in a text."""

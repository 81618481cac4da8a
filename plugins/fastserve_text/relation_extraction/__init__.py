"""The entities of a text and the relations between them, in one pass of one model."""

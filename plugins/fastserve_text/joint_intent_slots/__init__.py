"""The intent of a text and its slots in one pass, and whether the text has one of the intents at all."""

"""The task: a text for a text, such as a summary of a document, by an encoder with a decoder."""

"""Customer service: the intent of a message to a reply, with the slots filled in, or to a person."""

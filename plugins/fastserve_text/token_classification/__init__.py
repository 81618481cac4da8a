"""A tag for every word: named entities, slots, parts of speech."""

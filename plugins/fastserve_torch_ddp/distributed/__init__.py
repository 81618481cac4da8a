"""Communication between ranks: collectives over the process group, and memory that one machine shares."""

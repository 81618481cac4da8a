"""The parts of the trainer's benchmark: what is trained, by whom, and what is made of it."""

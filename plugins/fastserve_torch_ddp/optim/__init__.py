"""What an optimizer step is made of: the loss, the learning rate, and how weights move."""

"""Fine-tuning methods: the selection of the weights to train, and adapters."""

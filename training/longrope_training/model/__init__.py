"""Parts that make a transformers model trainable on rows of a million tokens: rope, attention, loss, MLP, adapters."""

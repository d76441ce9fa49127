"""The model under a candidate: its loss on a passage, and the gradient of that loss."""

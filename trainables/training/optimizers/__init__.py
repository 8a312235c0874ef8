"""The optimizers, and how one is chosen by name."""

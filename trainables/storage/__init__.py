"""Where results are, who may write there, and checkpoints."""

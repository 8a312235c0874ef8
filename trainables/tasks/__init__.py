"""What turns outputs into a loss."""

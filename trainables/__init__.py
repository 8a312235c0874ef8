"""One trial: a network trained at a batch size, and the sharpness of the minimum it found."""

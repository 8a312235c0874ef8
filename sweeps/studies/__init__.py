"""Studies from data to answer: the grid of batch_grid.py, and the paper's with two batch sizes."""

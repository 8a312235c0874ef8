"""From options to trials: the grid, and how long it will take."""

"""Statistics on arrays and data frames: means, intervals, rank correlations, corrections."""

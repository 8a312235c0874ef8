"""Studies: each script makes a grid of trials, runs it under Ray Tune, and maps what came out."""

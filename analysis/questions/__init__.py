"""One question per module: what the trials of a sweep say, as numbers with intervals."""

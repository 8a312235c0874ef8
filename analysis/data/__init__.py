"""A results folder as data frames: which trials are there, and which may be compared."""

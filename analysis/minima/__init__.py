"""The loss between and around saved minima."""

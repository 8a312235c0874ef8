"""One figure per module, all in one style."""

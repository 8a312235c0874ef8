"""The command lines of the sweeps: options, readers of values, errors in one line."""

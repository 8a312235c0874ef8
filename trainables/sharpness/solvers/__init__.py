"""Numerical methods that the measures build on; they know flat vectors alone."""

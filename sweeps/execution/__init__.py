"""Trials under Ray Tune: what is checked before, in which order they run, and how a run ends."""

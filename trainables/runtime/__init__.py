"""The process of a trial: errors, random seeds, memory, time limits, imports."""

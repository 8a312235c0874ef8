"""Studies: each script builds a grid of trials, runs it under Ray Tune, and reports the results."""

from trainables.runtime.importing import leave_script_folder

leave_script_folder(__file__)

"""Studies: each script makes a grid of trials, runs it under Ray Tune, and maps what came out."""

from trainables.runtime.importing import leave_script_folder

leave_script_folder(__file__)

"""The command line that the scripts of the analysis share."""

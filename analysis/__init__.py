"""From the tables of a sweep to its answer: statistics, figures, summary and report.html."""

import importlib.util
import os

from trainables.runtime.importing import leave_script_folder

leave_script_folder(__file__)

_backend = os.environ.get("MPLBACKEND", "").removeprefix("module://")
if "." in _backend and importlib.util.find_spec(_backend.split(".")[0]) is None:
    # A notebook leaves its backend to what it starts, maybe without the package: Matplotlib could not be imported.
    del os.environ["MPLBACKEND"]

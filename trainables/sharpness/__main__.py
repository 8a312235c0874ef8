"""`python -m trainables.sharpness`: any measure on saved weights (trainables/measures/command.py)."""

import sys

from trainables.measures.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

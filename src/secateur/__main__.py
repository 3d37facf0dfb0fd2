"""`python -m secateur`: the command line."""

from __future__ import annotations

import sys

from secateur.cli import main

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(main())

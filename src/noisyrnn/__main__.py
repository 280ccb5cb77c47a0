"""`python -m noisyrnn` is the command `noisyrnn`."""

import sys

from noisyrnn.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m sklearn_robust`: see `sklearn_robust.command_line`."""

import sys

from sklearn_robust.command_line import main

if __name__ == "__main__":
    sys.exit(main())

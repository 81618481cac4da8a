"""``python -m fastserve_core``: the same program as the ``fastserve`` command."""

import sys

from fastserve_core.cli import main

if __name__ == "__main__":
    sys.exit(main())

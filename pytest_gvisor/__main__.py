"""``python -m pytest_gvisor``."""

from __future__ import annotations

import sys

from pytest_gvisor.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

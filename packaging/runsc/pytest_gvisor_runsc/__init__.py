"""An unofficial build of gVisor @RELEASE@: runsc as one file, which is its own sentry.

pytest-gvisor finds it by itself. To start it in another way, set `GVISOR_SIDECAR_BINARIES_DIR` to
its folder.
"""

import os

__all__ = ["PATH", "VERSION"]

PATH: str = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "gvisor_sentry")
"""The path of runsc."""

VERSION: str = "@LABEL@"
"""The version that runsc says of itself."""

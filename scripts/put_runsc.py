"""Put a runsc of .build/ where the plugin's search finds it: python scripts/put_runsc.py PATH DIR.

A folder with ``gvisor-bin`` goes as a whole. It is judged, tried and renamed into its place as by
``pytest-gvisor install``.
"""

from __future__ import annotations

import os
import shutil
import sys

from pytest_gvisor.base.errors import GvisorError
from pytest_gvisor.install import place


def main(path: str, folder: str) -> str | int:
    """Put the runsc there; returns the error, or 0."""
    real = os.path.realpath(path)
    home = os.path.dirname(real)

    def make(staging: str) -> str:
        release = os.path.join(staging, "release")
        if os.path.isdir(os.path.join(home, "gvisor-bin")):
            shutil.copytree(home, release)
            return os.path.join(release, place.BINARY)
        return shutil.copy2(real, os.path.join(staging, place.BINARY))

    try:
        done = place.put(folder, make)
    except GvisorError as error:
        return str(error)
    print(done.path)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

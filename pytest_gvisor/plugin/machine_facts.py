"""The facts of a machine. xdist's controller sends this source to each worker that is elsewhere.

So it imports the standard library alone, and nothing of this package.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata


def facts() -> dict[str, str | tuple[str, ...]]:
    """Return the name and identity of the machine that runs this, and its versions.

    The identity differs between containers of one machine too.
    """
    kernel, root = os.uname(), os.stat("/")
    boots = map(_read, ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"))
    try:
        plugin = metadata.version("pytest-gvisor")
    except metadata.PackageNotFoundError:
        plugin = ""
    return {
        "uname": tuple(kernel),
        "identity": " ".join([kernel.nodename, *boots, f"{root.st_dev}:{root.st_ino}"]),
        "python": platform.python_version(),
        "plugin": plugin,
    }


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(100).strip()
    except OSError:
        return ""


if __name__ == "__channelexec__":
    channel.send(facts())  # type: ignore[name-defined]  # noqa: F821 -- execnet's

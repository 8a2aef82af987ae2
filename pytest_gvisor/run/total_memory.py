"""The limit on memory as the sandbox's total memory, by which programs inside size themselves.

runsc takes the total from the cgroup that it has made itself, and with ``--ignore-cgroups`` from
the host's /proc/meminfo. So it is shown another one, in the mount namespace of its own run.
"""

from __future__ import annotations

import os
import re

from pytest_gvisor.errors import stage
from pytest_gvisor.oci.skeleton import write

_MEMINFO = "/proc/meminfo"
_TOTAL = re.compile(r"^MemTotal:\s+(\d+) kB$", re.MULTILINE)


def shown(limit: int, folder: str) -> list[tuple[str, str]]:
    """Return the source and target of the mount that shows a limit in bytes; none if it is higher.

    The source is made in ``folder``. Raises `LaunchError`.
    """
    with stage("memory", f"cannot show runsc a {_MEMINFO} of the limit"):
        with open(_MEMINFO, encoding="ascii") as file:
            text = file.read()
        total = _TOTAL.search(text)
        if total is None or int(total[1]) * 1024 <= limit:
            return []
        source = os.path.join(folder, "meminfo")
        line = f"MemTotal: {limit // 1024:>14} kB"
        write(source, _TOTAL.sub(line, text).encode(), 0o444)
    return [(source, _MEMINFO)]

"""The names of gVisor's kernel, as ``uname -r`` prints them. Never looks at the machine."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

# 4.4.0 up to 2026-04, 4.19.0-gvisor since. The digits may change again; the suffix is gVisor's.
_RELEASE = re.compile(r"4\.4\.0|\d+\.\d+\.\d+-gvisor", re.ASCII)


def is_gvisor_kernel(release: str) -> bool:
    """Whether ``release``, of `os.uname().release` or ``uname -r``, is the name of gVisor's kernel.

    True for ``4.4.0``, the name in releases before 2026-04-27, and for each ``X.Y.Z-gvisor``.
    White space is not stripped: a line of output is no release.
    ``4.4.0`` is ambiguous: a host may have a kernel of 2016 without a distribution's suffix.
    There, compare with the host's `os.uname()` too.
    """
    return _RELEASE.fullmatch(release) is not None


_VERSION = "#1 SMP Sun Jan 10 15:06:54 PST 2016"
"""The version that ``uname -v`` prints in each release of gVisor so far."""


def named_sandbox(kernel: os.uname_result) -> str:
    """Return the name of the sandbox whose kernel answers; empty if the kernel is another.

    ``4.4.0`` counts with gVisor's own ``uname -v`` only. A container can fake both, so this is a
    statement about the kernel that answers, and no verdict on its isolation.
    """
    genuine = kernel.release != "4.4.0" or kernel.version == _VERSION
    if not is_gvisor_kernel(kernel.release) or not genuine:
        return ""
    return f"gVisor (kernel {kernel.release}, platform unknown)"

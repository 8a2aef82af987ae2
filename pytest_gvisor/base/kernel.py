"""The names of gVisor's kernel, as ``uname -r`` prints them. Never looks at the machine."""

from __future__ import annotations

import re

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

"""From the kernel's refusals to our tree of errors, on the way from here to runsc."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pytest_gvisor.errors import LaunchError


@contextlib.contextmanager
def stage(name: str, doing: str) -> Iterator[None]:
    """Turn an OSError into `LaunchError` with this stage; ``doing`` says what was not possible."""
    try:
        yield
    except OSError as error:
        raise LaunchError(name, doing, errno=error.errno or 0) from error

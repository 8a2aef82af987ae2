import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.fakes.fixtures import fake, runs  # noqa: F401 -- fixtures
from tests.fakes.launches import alone, base, launcher, umask  # noqa: F401 -- fixtures

PIDS_V1 = "/sys/fs/cgroup/pids"


@pytest.fixture
def cgroup() -> Iterator[str]:
    """An empty cgroup of our own making."""
    if os.geteuid() != 0:
        pytest.skip("needs root: an unprivileged user may make no cgroups")
    above = PIDS_V1 if os.path.isdir(PIDS_V1) else "/sys/fs/cgroup"
    path = f"{above}/pytest-gvisor-test-{os.getpid()}"
    os.mkdir(path)
    yield path
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)

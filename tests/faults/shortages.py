"""Shortages of resources in a process, for tests and for the programs that they start."""

import contextlib
import os
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def spare_descriptors(number: int) -> Iterator[None]:
    """Allow this process at most so many more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    # The limit is on numbers: no gap may be left below it.
    fillers = [os.dup(0)]
    while fillers[-1] < highest:
        fillers.append(os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)


@contextlib.contextmanager
def spare_memory(mib: float) -> Iterator[None]:
    """Allow this process at most so many more MiB of addresses.

    What Python holds and does not use is to be had all the same. So is what another thread frees
    meanwhile, its stack for one (8 MiB): a negative number refuses that too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        size = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    # A negative limit is none (setrlimit(2), RLIM_INFINITY), and this process may be small.
    resource.setrlimit(resource.RLIMIT_AS, (max(0, size + int(mib * 2**20)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

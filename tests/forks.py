"""A fork of the process that runs the tests, as a test's own worker processes are."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def a_fork() -> Iterator[None]:
    """Fork this process, with all of its descriptors; the fork lives until the end of the block."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        yield
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)

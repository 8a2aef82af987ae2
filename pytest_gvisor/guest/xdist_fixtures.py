"""The fixtures of xdist in a pytest inside, which has no worker of its own.

Used by worker.py alone; imports pytest only after ``sys.path`` is the host's.
"""

from __future__ import annotations


def fixtures(worker_id: str, testrun_uid: str) -> object:
    """Return a plugin whose fixtures have the values that xdist's have on the host."""
    import pytest  # noqa: PLC0415 -- sys.path is the host's only now

    ids = worker_id, testrun_uid

    class Fixtures:
        @pytest.fixture(scope="session")
        def worker_id(self) -> str:
            return ids[0]

        @pytest.fixture(scope="session")
        def testrun_uid(self) -> str:
            return ids[1]

    return Fixtures()

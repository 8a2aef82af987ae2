"""How the guest's Python is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_gvisor import bind, host
from pytest_gvisor.sandbox import interpreter


@pytest.mark.parametrize(
    ("over", "own"), [("/etc", True), ("/etc/ld.so.cache", True), ("/e", False)]
)
def test_a_mount_over_the_loaders_cache_is_not_read(
    tmp_path: Path, over: str, *, own: bool
) -> None:
    """The guest has its libraries named to it where the caller's mount holds the loader's list."""
    start = interpreter.start(host(), [bind(tmp_path, over)])
    assert start is not None
    assert ("--library-path" in start.argv) is own


def test_no_locale_and_no_time_zone_of_the_root_is_read() -> None:
    """The environment fixes both, with a file that no root file system can bring."""
    start = interpreter.start(host(), [])
    assert start is not None
    assert start.env == {"LC_ALL": "C", "TZ": f"{interpreter.PRIVATE}/guest/utc"}

"""The releases of runsc that tests of one release after the other run: new, 2024, 2022."""

from __future__ import annotations

from pathlib import Path

import pytest

_BUILD = Path(__file__).parents[1] / ".build"


@pytest.fixture(params=["current", "2024", "2022"])
def each_release(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """pytest's option for one release: the one that the search finds, Debian 13's, Debian 12's."""
    if request.param == "current":
        return ()
    path = _BUILD / f"runsc-{request.param}/usr/bin/runsc"
    if not path.exists():
        pytest.skip(
            f"no Debian archive: scripts/older-runsc could not fetch that of {request.param}"
        )
    return (f"--gvisor-runsc={path}",)

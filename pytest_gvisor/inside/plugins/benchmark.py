"""The bridge for pytest-benchmark: measurements inside become benchmarks of the host's session.

So the host's plugin prints, compares, saves and fails with it, as with one that it has measured.
"""

from __future__ import annotations

import array
import base64
import importlib
import math
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.inside.wire import rules
from pytest_gvisor.inside.wire.session_bounds import SessionBounds

MOST_ROUNDS = 20_000_000
"""Of one session: pytest-benchmark keeps some 32 bytes for each."""

_MORE = 2000
"""A benchmark counts as so many more, for its names and options."""


def find(config: pytest.Config, bounds: SessionBounds) -> rules.Take | None:
    """Return the end of the bridge if pytest-benchmark measures on the host.

    In xdist's workers it measures nothing.
    """
    session: Any = getattr(config, "_benchmarksession", None)
    if getattr(session, "disabled", True) or not is_known(config):
        return None
    metadata = importlib.import_module("pytest_benchmark.stats").Metadata
    return Benchmarks(session, metadata, bounds).take


class Benchmarks:
    """The measurements of tests inside, for the session of pytest-benchmark on the host."""

    def __init__(self, session: Any, metadata: type[Any], bounds: SessionBounds) -> None:
        self._session = session
        self._metadata = metadata
        self._bounds = bounds
        self._rounds = 0

    def take(self, data: Any, sender: rules.Sender | None) -> None:
        """Add a benchmark to the session on the host, which knows the test's own names itself."""
        if sender is None or data["id"] != sender.inner:
            raise ValueError("a benchmark of a test that does not run")
        row = _ROW(data)
        rounds, item = row.pop("rounds"), sender.item
        self._rounds += len(rounds) + _MORE
        # The other end leaves out rounds that no message could hold.
        if len(rounds) < row.pop("count") or self._rounds > MOST_ROUNDS:
            self._bounds.drop("benchmarks of too many rounds")
            return
        call = getattr(item, "callspec", None)
        row |= {"name": item.name, "fullname": item.nodeid}
        row |= {"param": getattr(call, "id", None), "params": getattr(call, "params", None)}
        row["has_error"] |= not rounds  # one that has measured nothing cannot be summed up
        benchmark = self._metadata(SimpleNamespace(**row), row["iterations"], row["options"])
        benchmark.stats.data = rounds
        self._session.benchmarks.append(benchmark)


def is_known(config: pytest.Config) -> bool:
    """Whether pytest-benchmark is here, and has the form that this module knows."""
    session: Any = getattr(config, "_benchmarksession", None)
    return isinstance(getattr(session, "benchmarks", None), list) and hasattr(session, "disabled")


def _rounds(text: Any) -> list[float]:
    """Return the seconds of each round: numbers of eight bytes, in base64."""
    numbers = array.array("d", base64.b64decode(text, validate=True))
    if not all(map(math.isfinite, numbers)) or any(abs(n) > rules.LONGEST_TIME for n in numbers):
        raise ValueError("a round of no time that there is")
    return numbers.tolist()


def _profile(rows: Any) -> SimpleNamespace:
    """Return a profile, like the one of `pstats.Stats`."""
    return SimpleNamespace(stats={row[:3]: (*row[3:], {}) for row in _FUNCTIONS(rows)})


_FUNCTION = rules.tuple_of(
    rules.shown, rules.number, rules.shown, *[rules.whole] * 2, *[rules.seconds] * 2
)
_FUNCTIONS = rules.list_of(_FUNCTION, 10_000)
_ROW = rules.object_of(
    group=rules.or_none(lambda value: rules.shown(value)[:1000]),
    extra_info=rules.each(rules.plain),
    cprofile_stats=rules.or_none(_profile),
    has_error=bool,
    iterations=rules.whole,
    count=rules.whole,
    rounds=_rounds,
    options=rules.each(rules.plain, 30),
)

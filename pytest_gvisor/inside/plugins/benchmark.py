"""The bridge for pytest-benchmark: measurements inside become benchmarks of the host's session.

So the host's plugin prints, compares, saves and fails with it, as with one that it has measured.
"""

from __future__ import annotations

import array
import base64
import importlib
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_gvisor.inside import rules

if TYPE_CHECKING:
    import pytest

    from pytest_gvisor.inside.plugins import Sender
    from pytest_gvisor.inside.session_bounds import SessionBounds

MOST_BENCHMARKS = 10_000
MOST_ROUNDS = 20_000_000
"""Of one session: pytest-benchmark keeps some 32 bytes for each."""


class Benchmarks:
    """The measurements of tests inside, for the session of pytest-benchmark on the host."""

    def __init__(self, session: Any, metadata: type[Any], bounds: SessionBounds) -> None:
        self._session = session
        self._metadata = metadata
        self._bounds = bounds
        self._rounds = self._count = 0

    @classmethod
    def find(cls, config: pytest.Config, bounds: SessionBounds) -> Benchmarks | None:
        """Return the end of the bridge if pytest-benchmark measures on the host.

        In xdist's workers it measures nothing.
        """
        session: Any = getattr(config, "_benchmarksession", None)
        if not is_known(config) or session.disabled:
            return None
        return cls(session, importlib.import_module("pytest_benchmark.stats").Metadata, bounds)

    def take(self, data: Any, sender: Sender | None) -> None:
        """Add a benchmark to the session on the host, which knows the test's own names itself."""
        if sender is None or data["id"] != sender.inner:
            raise ValueError("a benchmark of a test that does not run")
        row = _ROW(data)
        rounds, item = row.pop("rounds"), sender.item
        if len(rounds) < row.pop("count"):
            self._bounds.drop("benchmarks of too many rounds for a message")
            return
        self._count += 1
        self._rounds += len(rounds)
        if self._count > MOST_BENCHMARKS or self._rounds > MOST_ROUNDS:
            self._bounds.drop(f"benchmarks beyond {MOST_BENCHMARKS:,}, or {MOST_ROUNDS:,} rounds")
            return
        call = getattr(item, "callspec", None)
        row |= {"name": item.name, "fullname": item.nodeid}
        row |= {"param": getattr(call, "id", None), "params": getattr(call, "params", None)}
        row["has_error"] |= not rounds  # one that has measured nothing cannot be summed up
        given = {name: row.pop(name) for name in ("iterations", "options")}
        benchmark = self._metadata(SimpleNamespace(**row), **given)
        benchmark.stats.data = rounds
        self._session.benchmarks.append(benchmark)


def is_known(config: pytest.Config) -> bool:
    """Whether pytest-benchmark is here, and has the form that this module knows."""
    session: Any = getattr(config, "_benchmarksession", None)
    return isinstance(getattr(session, "benchmarks", None), list) and hasattr(session, "disabled")


def _name(value: Any) -> str:
    return rules.shown(value)[:1000]


def _option(value: Any) -> str | float | None:
    if isinstance(value, str):
        return rules.shown(value)
    if value is not None:
        rules.seconds(value)
    return value  # type: ignore[no-any-return]  # a number, which may be a whole one


def _rounds(text: Any) -> list[float]:
    """Return the seconds of each round: numbers of eight bytes, in base64."""
    numbers = array.array("d", base64.b64decode(text, validate=True))
    if not all(map(math.isfinite, numbers)) or any(abs(n) > rules.LONGEST_TIME for n in numbers):
        raise ValueError("a round of no time that there is")
    return numbers.tolist()


def _profile(rows: Any) -> SimpleNamespace:
    """Return a profile, like the one of `pstats.Stats`."""
    return SimpleNamespace(stats={row[:3]: (*row[3:], {}) for row in _FUNCTIONS(rows)})


_FUNCTIONS = rules.list_of(
    rules.tuple_of(
        rules.shown, rules.number, rules.shown, rules.whole, rules.whole, rules.seconds,
        rules.seconds,
    ),
    10_000,
)  # fmt: skip
_ROW = rules.object_of(
    group=rules.or_none(_name),
    extra_info=rules.each(rules.plain),
    cprofile_stats=rules.or_none(_profile),
    has_error=bool,
    iterations=rules.whole,
    count=rules.whole,
    rounds=_rounds,
    options=rules.each(_option, 30),
)

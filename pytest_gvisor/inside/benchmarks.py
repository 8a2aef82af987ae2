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

    from pytest_gvisor.inside.bridge_ends import Sender
    from pytest_gvisor.inside.session_bounds import SessionBounds

MOST_BENCHMARKS = 10_000
MOST_ROUNDS = 20_000_000
"""Of one session: pytest-benchmark keeps some 32 bytes for each."""

_MOST_OPTIONS = 30
_MOST_FUNCTIONS = 10_000
_HIGHEST = 2**53
_LONGEST_NAME = 1000


class Benchmarks:
    """The measurements of tests inside, for the session of pytest-benchmark on the host."""

    def __init__(self, session: Any, metadata: type[Any], bounds: SessionBounds) -> None:
        self._session = session
        self._metadata = metadata
        self._bounds = bounds
        self._rounds = 0
        self._count = 0

    @classmethod
    def find(cls, config: pytest.Config, bounds: SessionBounds) -> Benchmarks | None:
        """Return the end of the bridge if pytest-benchmark measures on the host.

        In xdist's workers it measures nothing.
        """
        session: Any = getattr(config, "_benchmarksession", None)
        if not is_known(config) or session.disabled:
            return None
        metadata: type[Any] = importlib.import_module("pytest_benchmark.stats").Metadata
        return cls(session, metadata, bounds)

    def take(self, data: Any, sender: Sender | None) -> None:
        """Add a benchmark to the session on the host."""
        if sender is None or data["id"] != sender.inner:
            raise ValueError("a benchmark of a test that does not run")
        fixture, options = _fixture(data, sender.item), _options(data["options"])
        iterations = _whole(data["iterations"])
        rounds = _rounds(data["rounds"])
        if len(rounds) < _whole(data["count"]):
            self._bounds.drop("benchmarks of too many rounds for a message")
            return
        self._count += 1
        self._rounds += len(rounds)
        if self._count > MOST_BENCHMARKS or self._rounds > MOST_ROUNDS:
            self._bounds.drop(f"benchmarks beyond {MOST_BENCHMARKS:,}, or {MOST_ROUNDS:,} rounds")
            return
        # One that has measured nothing cannot be summed up.
        fixture.has_error = fixture.has_error or not rounds
        benchmark = self._metadata(fixture, iterations=iterations, options=options)
        benchmark.stats.data = rounds
        self._session.benchmarks.append(benchmark)


def is_known(config: pytest.Config) -> bool:
    """Whether pytest-benchmark is here, and has the form that this module knows."""
    session: Any = getattr(config, "_benchmarksession", None)
    return isinstance(getattr(session, "benchmarks", None), list) and hasattr(session, "disabled")


def _fixture(data: dict[str, Any], item: pytest.Item) -> SimpleNamespace:
    """Return what pytest-benchmark takes of its fixture: mostly the host's own knowledge."""
    call = getattr(item, "callspec", None)
    name = rules.or_none(rules.shown)(data["name"])
    return SimpleNamespace(
        name=item.name if name is None else name[:_LONGEST_NAME],
        fullname=item.nodeid,
        group=rules.or_none(lambda group: rules.shown(group)[:_LONGEST_NAME])(data["group"]),
        param=getattr(call, "id", None),
        params=getattr(call, "params", None),
        extra_info=rules.each(rules.plain)(data["extra_info"]),
        cprofile_stats=rules.or_none(_profile)(data["profile"]),
        has_error=bool(data["has_error"]),
    )


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _HIGHEST:
        raise ValueError(f"{value!r:.50} in the place of a number of rounds")
    return value


def _options(value: Any) -> dict[str, Any]:
    if len(value) > _MOST_OPTIONS:
        raise ValueError(f"{len(value)} options of a benchmark")
    return {rules.shown(name): _option(part) for name, part in value.items()}


def _option(value: Any) -> str | float | None:
    if isinstance(value, str):
        return rules.shown(value)
    if value is None or isinstance(value, bool):
        return value
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
    if len(rows) > _MOST_FUNCTIONS:
        raise ValueError(f"a profile of {len(rows)} functions")
    read = rules.tuple_of(
        rules.shown, rules.number, rules.shown, _whole, _whole, rules.seconds, rules.seconds
    )
    return SimpleNamespace(stats={row[:3]: (*row[3:], {}) for row in map(read, rows)})

"""The progress of one test inside, and the tests that are sent before the host asks for reports.

The pytest inside then goes on without waiting for the host, which has a test to report meanwhile.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from pytest_gvisor.base.errors import ProtocolError
from pytest_gvisor.base.escape import safe
from pytest_gvisor.base.settings import Network, Settings
from pytest_gvisor.guest.wire import encoding
from pytest_gvisor.inside.debugger import is_asked_for
from pytest_gvisor.inside.wire.link import Died, Link
from pytest_gvisor.plugin.placement import APART, variant_of

PHASES = ("setup", "call", "teardown")
_FINAL = frozenset({"passed", "failed", "skipped"})
"""The outcomes that end a phase. A plugin's own, such as ``retried``, decide nothing."""

_LONGEST_ERRORS = 100_000
_MOST_ALIKE = 5

MOST = 64
_MANY = 16
_LONGEST = 16 * 1024
"""Characters of the ids of tests ahead: nobody reads commands while a test runs."""

_SHORT = 0.05
_SHORTEST = 0.015
"""Seconds of a short test, of which many are named ahead, and of one so short that most are."""


def _named(items: Iterable[pytest.Item]) -> dict[str, pytest.Item]:
    planned = ((item, variant) for item in items if (variant := variant_of(item)) is not None)
    return {getattr(item, APART, variant.inner): item for item, variant in planned}


def other_names(
    items: Iterable[pytest.Item], ids: Sequence[str], numbers: Sequence[str]
) -> dict[str, str]:
    """Return the names inside of tests that have others there, by their names here.

    Both are of the same function and the same place among its parameters. ``numbers`` has this of
    each of ``ids``: see `encoding.numbered`.
    """
    named = _named(items)
    if not (missing := named.keys() - set(ids)):
        return {}
    free = collections.Counter(numbers)
    # A test without parameters has no number, and no other one can be it.
    known = {n: name for name, n in zip(ids, numbers, strict=True) if n and name not in named}
    found = ((name, encoding.numbered(named[name])) for name in sorted(missing))
    return {name: known[number] for name, number in found if number in known and free[number] == 1}


def changed(
    items: Iterable[pytest.Item], names: Mapping[str, str], left: Mapping[str, str]
) -> list[str]:
    """Return the names inside of tests that a hook has left out there, and hooks have changed here.

    ``names`` is as `other_names` returns it. ``left`` has all tests that were left out: see
    `encoding.changes`.
    """
    named = {names.get(name, name): item for name, item in _named(items).items()}
    return [name for name in left.keys() & named if encoding.changes(named[name]) != left[name]]


def not_found(inner: str, ids: Iterable[str], errors: Iterable[str]) -> str:
    """Return the failure of a test that was not collected inside, where these ``ids`` were."""
    told = safe("\n".join(errors)[:_LONGEST_ERRORS])
    function = inner.partition("[")[0]
    alike = sorted(name for name in ids if name.partition("[")[0] == function)
    if alike:
        more = ", …" if alike[_MOST_ALIKE:] else ""
        others = safe(", ".join(alike[:_MOST_ALIKE]))
        told = f"{told}\nits function has other ids there: {others}{more}".lstrip()
    told = told or "and nothing failed to be collected there"
    return f"{safe(inner)} was collected here and not inside the sandbox:\n{told}"


class Ids(NamedTuple):
    """Node ids inside: a test's, and those of the following tests in the same sandbox."""

    inner: str
    upcoming: tuple[str, ...] = ()
    sure: int = 0
    """The number of the next ones that come without another in between: only the sandbox's end
    keeps them back."""

    def renamed(self, names: Mapping[str, str]) -> Ids:
        """Return them with other names for some."""
        inner, *upcoming = (names.get(name, name) for name in (self.inner, *self.upcoming))
        return self._replace(inner=inner, upcoming=tuple(upcoming))


@dataclasses.dataclass(kw_only=True)
class Progress:
    """The progress of one test by the messages that have arrived."""

    calls: bool = True
    """Whether a test that is set up is called too: not so with ``--setup-only``."""

    phase: str = "setup"
    reported: set[str] = dataclasses.field(default_factory=set)
    failed: bool = False
    is_set_up: bool = False

    def add(self, report: pytest.TestReport) -> None:
        """Take a report; a subtest's does not end a phase.

        Raises `ProtocolError` for a report out of turn. Phases come in order, each of them once.
        Only a test that is not complete, and has not failed, is set up again for another try.
        """
        when = str(report.when)
        if self.missing() is None or (self.failed and when == "setup"):
            raise ProtocolError(f"a report of the {when} of a test that is over")
        if type(report) is not pytest.TestReport:
            return
        if when == "setup":
            self.reported.clear()
        # A plugin's own outcome, such as a rerun's, is followed by the report of another try.
        if report.outcome not in _FINAL:
            self.reported.discard(when)
            return
        if self.reported.intersection(PHASES[PHASES.index(when) :]):
            raise ProtocolError(f"a report of the {when} that is one too many, or late")
        self.reported.add(when)
        self.failed |= report.failed
        if when == "setup":
            self.is_set_up = report.passed

    def lost(self) -> str:
        """Return the phase that fails when the sandbox is lost now; nothing if one has failed."""
        phase = self.missing() or ("" if self.failed else "teardown")
        return "setup" if phase == "call" and self.phase == "setup" else phase

    def missing(self) -> str | None:
        """Return the first phase without its report; None if the test is complete."""
        expected = [phase for phase in PHASES if phase != "call" or (self.calls and self.is_set_up)]
        return next((phase for phase in expected if phase not in self.reported), None)


def check_test(message: dict[str, Any], inner: str | None) -> None:
    """Raise `ProtocolError` for a message about another test than the current one."""
    if message.get("id") != inner:
        kind, other = message["type"], message.get("id")
        raise ProtocolError(f"a {kind!r} from inside of another test than {inner}: {other!r:.200}")


class Ahead:
    """The tests that were named to one pytest inside, and that are not yet asked for.

    They are ``most`` at most; one is, before the time of a test is known.
    """

    def __init__(self, most: int = MOST) -> None:
        self._ids: collections.deque[str] = collections.deque()
        self.most = most
        self._count = min(most, 1)

    @property
    def first(self) -> str | None:
        """Return the test whose messages come next."""
        return self._ids[0] if self._ids else None

    @property
    def room(self) -> int:
        """Return how many tests to name, those that were named already included.

        Unless Ctrl-C stops it, the session waits for all of them at its end. So only short tests
        are many.
        """
        return 0 if len(self._ids) > self._count // 2 else self._count

    def pop(self) -> None:
        """Forget the first test: it is over, or its turn has come."""
        self._ids.popleft()

    def took(self, seconds: float) -> None:
        """Note the time of a test."""
        self._count = min(
            self.most, MOST if seconds < _SHORTEST else _MANY if seconds < _SHORT else 1
        )

    def send(self, link: Link, ids: Ids, collected: Collection[str]) -> None:
        """Name the tests that follow for sure, and that are not named yet."""
        count = len(self._ids)
        sure = ids.upcoming[: ids.sure]
        if sure[:count] != tuple(self._ids):
            return
        fresh = [*itertools.takewhile(lambda inner: inner in collected, sure[count:])]
        if sum(map(len, fresh)) > _LONGEST:
            fresh = fresh[:1]
        if not fresh:
            return
        following = (*ids.upcoming, None)[count + len(fresh)]
        # A pytest that is gone by now is judged by what it has sent, which is read first.
        with contextlib.suppress(Died):
            link.send("run", ids=fresh, next=following, failed=None)
        self._ids.extend(fresh)


def most(config: pytest.Config, settings: Settings, *, writable: bool, live: bool) -> int:
    """Return how many tests at most may run before the verdict on the one before them.

    It is none where a verdict may stop the session, where tests have effects outside, and where
    each has a trace or the figures of an allow-list. It is one where the user sees the output of a
    test while it runs. ``live`` says so of the log.
    """
    option = config.option
    stops = option.maxfail or getattr(option, "stepwise", False) or is_asked_for(config)
    told = settings.traced or settings.allow or settings.network is Network.HOST
    if stops or writable or told:
        return 0
    shows = any(getattr(option, name, False) for name in ("setupshow", "setuponly"))
    return 1 if live or shows or config.getoption("capture", "fd") == "no" else MOST

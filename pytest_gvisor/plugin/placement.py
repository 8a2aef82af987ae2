"""The tests that run inside, and the variant that each of them is. Light: always imported."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_gvisor.base.settings import Platform

FIXTURES = frozenset({
    "gvisor", "gvisor_image", "gvisor_platform", "gvisor_runsc", "gvisor_sandbox",
    "gvisor_sandboxes", "gvisor_snapshot", "oci_bundle", "runsc",
})  # fmt: skip
_OUR_FIXTURES = "pytest_gvisor.plugin.fixtures"
MARKERS = frozenset({"gvisor", "requires_runsc", "requires_kvm", "requires_platform"})
GUARD = "PYTEST_GVISOR_INSIDE"
"""What worker.py sets, to the kernel that it runs on: set elsewhere it means nothing."""

_kernel = os.uname()
_inside = os.environ.get(GUARD) == f"{_kernel.release} {_kernel.version}"
"""Decided once: tests and fixtures set and clear variables."""

FIELDS = "gvisor_report_fields"
"""The ini key that names further fields of reports from inside: see inside/wire/fields.py."""

RETURNS = "gvisor_returns"
BASETEMP_GIVEN = "gvisor_basetemp_given"
BEGAN = "gvisor_began"
GIVEN = "gvisor_given"
"""The key by which a worker of xdist is told the settings of its controller, by field."""

UNTRUSTED = "gvisor_untrusted"
"""An attribute of reports that hold workloads' output, until they are logged. It says whether
pytest has coloured their text."""

APART = "gvisor_apart"
"""An attribute of a test whose node id others have too: its name in messages. It is given by the
order of the collection, which is the same inside."""

EARLY = "gvisor-early"
"""The name of the plugin that starts a sandbox before the collection: see inside/boot/early.py."""


class Variant(NamedTuple):
    """One of the forms in which a test runs inside."""

    inner: str
    """Its node id in the pytest inside."""

    platform: Platform | None
    """The platform that was asked for; None where the binary decides (``auto``)."""

    release: str | None = None
    """The label of its runsc; None where there are not several."""

    fresh: bool = False
    """Whether it wants a sandbox of its own."""

    user: str = "caller"
    """Who it runs as, in the form of inside/view/users.py."""


native_key: pytest.StashKey[str] = pytest.StashKey()
"""The own node id of a test inside. The copy of it that runs on the host, as the column to compare
with, has it. So has a test that runs in place."""

variant_key: pytest.StashKey[Variant] = pytest.StashKey()
twins_key: pytest.StashKey[list[pytest.Item]] = pytest.StashKey()
"""The copies of a test for its platforms and releases, of which this is one."""

deselected_key: pytest.StashKey[set[str]] = pytest.StashKey()
"""The functions of tests that the host has deselected."""


_began_key: pytest.StashKey[float] = pytest.StashKey()


def began(config: pytest.Config) -> float:
    """Return when the session began, in seconds since 1970: for a worker of xdist, the whole one.

    A worker on another machine has another clock, and so its own beginning.
    """
    given = getattr(config, "workerinput", {})
    own = config.stash.setdefault(_began_key, time.time())
    return own if given.get("gvisor_elsewhere") else min(own, given.get(BEGAN, own))


def variant_of(item: pytest.Item) -> Variant | None:
    """Return the variant that a test inside is; None for a test on the host."""
    return item.stash.get(variant_key, None)


def params_of(item: pytest.Item) -> Mapping[str, Any]:
    """Return the parameters of a test; none for one that pytest does not parametrize."""
    return getattr(getattr(item, "callspec", None), "params", {})


def in_matrix(item: pytest.Item) -> bool:
    """Whether a test belongs to one platform: it runs inside, or its sandboxes do.

    The host's copy of a test inside belongs to ``native``.
    """
    if native_key in item.stash or variant_key in item.stash:
        return True
    return "gvisor_platform" in getattr(item, "fixturenames", ())


UNSUPPORTED = "gvisor_unsupported"
"""The attribute of a report that has the test's calls that gVisor does not implement."""


def here_is_inside() -> bool:
    """Whether this pytest runs in the sandbox, or was started by the one that does."""
    return _inside


def already_inside() -> str:
    """Return the name of the sandbox that the user has started this pytest in; empty if none."""
    return "" if here_is_inside() else _named()


def _named() -> str:
    from pytest_gvisor.base.kernel import named_sandbox  # noqa: PLC0415 -- idle costs nothing

    return named_sandbox(_kernel)


def check_guard() -> None:
    """Raise `pytest.UsageError` for the mark of a pytest inside on another kernel than gVisor's.

    Tests that are to run inside would run here, and nothing would say so. The mark may name the
    host's own kernel.
    """
    if GUARD in os.environ and not (here_is_inside() and _named()):
        raise pytest.UsageError(
            f"pytest-gvisor: {GUARD} is set, as it is inside a sandbox for tests, and this is not "
            "the kernel of one. Unset it."
        )


def is_asked_for(config: pytest.Config) -> bool:
    """Whether all tests that can are to run inside."""
    given = getattr(config, "workerinput", {}).get(GIVEN, {}).get("in_gvisor")
    return bool(config.getoption("in_gvisor") or config.getini("in_gvisor") or given)


def select_inside(config: pytest.Config, items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Return the tests that are to run inside and have no variant so far.

    One that uses a sandbox itself cannot: its sandboxes are the host's. With ``--setup-plan``
    pytest's own protocol shows the fixtures, and runs nothing.
    """
    if here_is_inside() or config.getoption("no_gvisor") or config.getoption("setupplan", False):
        return []
    every, owners, found = is_asked_for(config), dict[int, pytest.Item](), []
    for item in items:
        is_wanted = every or item.get_closest_marker("in_gvisor") is not None
        if not is_wanted or native_key in item.stash or _asks_for_sandbox(item):
            continue
        if owners.setdefault(id(item.stash), item) is not item:
            item.stash = pytest.Stash()  # a hook's copy of a test has the stash of the first
        if variant_key not in item.stash:
            found.append(item)
    return found


def _asks_for_sandbox(item: pytest.Item) -> bool:
    """Whether a test has one of our fixtures, also in a fixture of that name around it.

    A project may have another fixture, or a parameter, of such a name.
    """
    known = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    for name in FIXTURES.intersection(getattr(item, "fixturenames", ())):
        own = (one for one in reversed(known.get(name, ())) if name not in one.argnames)
        if (last := next(own, None)) is None or last.func.__module__ == _OUR_FIXTURES:
            return True
    return False


def uses_gvisor(item: pytest.Item) -> bool:
    """Whether a test has one of our fixtures or markers."""
    names = getattr(item, "fixturenames", ())
    marked = any(mark.name in MARKERS for mark in item.iter_markers())
    return marked or not FIXTURES.isdisjoint(names)


def functions(items: Iterable[pytest.Item]) -> Iterable[str]:
    """Yield the functions of these tests, by the node ids that they are collected by."""
    for item in items:
        if isinstance(item, pytest.Function) and item.parent is not None:
            yield f"{item.parent.nodeid}::{item.originalname}"


def note_deselected(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Note tests that the host has deselected: see inside/view/configuration.py.

    Without ``-m``, ``-k`` and ``--deselect`` a plugin has done so. It may choose among all that it
    is given, which has to be the same inside. What an argument names, pytest has to find there.
    """
    option, named = config.option, any("::" in argument for argument in config.args)
    if not named and (option.markexpr or option.keyword or option.deselect):
        config.stash.setdefault(deselected_key, set()).update(functions(items))

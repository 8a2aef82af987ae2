"""Copies of a test, one for each of its platforms, with names of their own."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from pytest_gvisor.base.setting_values import NATIVE
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.inside.view import users, writable
from pytest_gvisor.plugin.placement import (
    Variant,
    already_inside,
    native_key,
    twins_key,
    variant_key,
)
from pytest_gvisor.plugin.precedence import run_settings, settings_of
from pytest_gvisor.plugin.skips import location, misuse_ends_session


@misuse_ends_session()
def expand(items: list[pytest.Item], inside: Iterable[pytest.Item]) -> None:
    """Replace each test ``inside`` by one copy per platform and release, if it has several.

    Raises `pytest.UsageError` for a writable folder with tests in it.
    """
    writable.check(items[0].config, items)
    expanded: list[pytest.Item] = []
    chosen = set(map(id, inside))
    for item in items:
        if id(item) not in chosen:
            expanded.append(item)
            continue
        settings = settings_of(item)
        if already_inside() and not _needs_a_start(item, settings):
            item.stash[native_key] = item.nodeid
            expanded.append(item)
            continue
        variants = [*_variants(settings)]
        if len(variants) == 1 and not settings.native:
            item.stash[variant_key] = Variant(item.nodeid, variants[0][1])
            expanded.append(item)
            continue
        twins = [_twin(item, *variant) for variant in variants]
        for twin in twins:
            twin.stash[twins_key] = twins
        expanded += [*twins, _native(item)] if settings.native else twins
    items[:] = expanded


def read_marks(items: Iterable[pytest.Item]) -> None:
    """Read the ``in_gvisor`` marks of tests inside, when no hook adds any more.

    Raises `pytest.UsageError` for a marker that cannot be meant.
    """
    for item in items:
        user, fresh = users.of_run(item.config), False
        for mark in reversed([*item.iter_markers("in_gvisor")]):
            fresh = mark.kwargs.get("fresh", False)
            if mark.args or not mark.kwargs.keys() <= {"fresh", "user"} or type(fresh) is not bool:
                raise pytest.UsageError(
                    f"pytest-gvisor: {location(item)}: write @pytest.mark.in_gvisor(fresh=True), "
                    "in_gvisor(user='root') or @pytest.mark.in_gvisor, not with "
                    f"{mark.args!r} {mark.kwargs!r}"
                )
            if "user" in mark.kwargs:
                with misuse_ends_session(f"{location(item)}: "):
                    user = users.read(mark.kwargs["user"], "user")
        item.stash[variant_key] = item.stash[variant_key]._replace(fresh=fresh, user=user)


def put_together(items: list[pytest.Item]) -> None:
    """Put the copies of a file's tests for a platform together, and the host's own last.

    A worker of xdist knows one test after the running one. If that was a copy for another platform,
    nobody could say whether the sandbox and its fixtures are needed again. The fixtures that the
    host's own share are torn down as their own.
    """
    ordered: list[pytest.Item] = []
    for _, block in itertools.groupby(items, lambda item: (item.path, _column(item) is not None)):
        columns: dict[object, list[pytest.Item]] = {}
        for item in block:
            columns.setdefault(_column(item), []).append(item)
        natives = columns.pop(NATIVE, ())
        ordered += itertools.chain(*columns.values(), natives)
    items[:] = ordered


def _column(item: pytest.Item) -> object:
    """Return what a test inside has in common with others of its platform; None for another."""
    variant = item.stash.get(variant_key, None)
    is_native = native_key in item.stash
    return (variant.platform, variant.release) if variant else (NATIVE if is_native else None)


def keep_last_failed(config: pytest.Config) -> None:
    """Let ``--lf`` leave out no test while pytest collects, if a variant has failed before.

    A file's tests have no variants then, so none of them has the id of one.
    """
    settings = run_settings(config)
    labels = (release.label for release in settings.releases)
    ends = tuple(f"{word}]" for word in ("auto", NATIVE, *Platform, *settings.platforms, *labels))
    failed = getattr(config.pluginmanager.get_plugin("lfplugin"), "lastfailed", ())
    if any(str(nodeid).endswith(ends) for nodeid in failed):
        config.pluginmanager.unregister(name="lfplugin-collwrapper")


def _needs_a_start(item: pytest.Item, settings: Settings) -> bool:
    """Whether a test asks for what only the start of a sandbox can give."""
    return bool(settings.of_its_sandbox) or any(m.kwargs for m in item.iter_markers("in_gvisor"))


def _variants(settings: Settings) -> Iterator[tuple[str, Platform | None, str | None]]:
    """Yield a test's variants in order: the name in its id, the platform, the release's label.

    As of a test on the host, a platform is in the word only where there are several of them.
    """
    several = len(settings.platforms) > 1
    for platform in settings.platforms or (None,):
        word = platform or "auto"
        if not settings.releases:
            yield word, platform, None
        for label in (release.label for release in settings.releases):
            yield f"{word}-{label}" if several else label, platform, label


def _native(item: pytest.Item) -> pytest.Item:
    """Give the test itself, which runs here, an id of its own.

    Its name stays: it is what a `unittest.TestCase` finds its method by.
    """
    item.stash[native_key] = item.nodeid
    _rename(item, NATIVE)
    item.extra_keyword_matches = {*item.extra_keyword_matches, NATIVE}
    return item


def _twin(
    item: pytest.Item, word: str, platform: Platform | None, release: str | None
) -> pytest.Item:
    """Copy a test for one platform, which hooks may mark alone.

    The copy is never set up here, so it may share other attributes.
    """
    twin = copy.copy(item)
    twin.own_markers, twin.user_properties = [*item.own_markers], [*item.user_properties]
    twin.extra_keyword_matches = {*item.extra_keyword_matches}
    twin.stash = pytest.Stash()
    twin.stash[variant_key] = Variant(item.nodeid, platform, release)
    _rename(twin, word)
    twin.name = with_platform(item.name, word)
    kind: Any = type(item.keywords)
    twin.keywords = kind(twin)
    twin.keywords.update(item.keywords)
    return twin


def _rename(item: pytest.Item, word: str) -> None:
    """Add a platform to an item's place and node id, where pytest keeps it, as xdist its group.

    Since pytest 9.2 that is the parsed form, which decides what ``--lf`` and ``--nf`` take.
    """
    kept: Any = item
    path, line, domain = item.location
    item.__dict__["location"] = (path, line, with_platform(domain, word))
    nodeid = with_platform(item.nodeid, word)
    if hasattr(pytest.Item, "_id"):
        kept._id = type(kept._id).parse(nodeid)
    else:
        kept._nodeid = nodeid


def with_platform(name: str, platform: str) -> str:
    """Return ``test_x[systrap]`` or ``test_x[1-systrap]``."""
    return f"{name[:-1]}-{platform}]" if name.endswith("]") else f"{name}[{platform}]"

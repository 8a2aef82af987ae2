"""Shards: the parts of one collection of tests that several runs of pytest have divided.

A shard belongs to each platform that its run has a column for. A run without any column had nothing
to run, and counts for each platform.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pytest_gvisor.base.errors import ReportError

if TYPE_CHECKING:
    from pytest_gvisor.report.model import Leg

MAX = 10_000
"""The most shards of one division."""

_NAMED = 20
_STEP = "Join the shards of one run of CI, and of one Python, by one `report merge`."


def refuse_strangers(legs: Iterable[Leg]) -> None:
    """Raise `ReportError` unless the shards of each platform are parts of the same collection."""
    known: dict[tuple[str, str], tuple[object, Leg]] = {}
    for leg in legs:
        if not leg.shards:
            continue
        facts = [("", "commit", leg.commit)]
        for column in leg.platforms:
            facts.append((column.name, "number of shards", str(leg.shards)))
            facts.append((column.name, "collection of tests", leg.collection))
        for name, what, value in facts:
            first, other = known.setdefault((name, what), (value, leg)) if value else (value, leg)
            if first != value:
                raise ReportError(
                    f"{leg.named} and {other.named} differ in their {what}: {value}, {first}",
                    next_step=_STEP,
                )


def refuse_doubled(test: str, platform: str, one: Leg, two: Leg) -> None:
    """Raise `ReportError` if two different shards have run the same test on a platform."""
    if one.shards and two.shards and one.shard != two.shard:
        raise ReportError(
            f"{test} ran on {platform} in {one.named}, and in {two.named} too: a test belongs to "
            "one shard",
            next_step=_STEP,
        )


def missing(legs: Iterable[Leg]) -> list[str]:
    """Name the shards that no leg is, by platform; at most twenty, and the number of the others."""
    there: dict[str, set[int]] = {}
    counts: dict[str, int] = {}
    everywhere: set[int] = set()
    for leg in legs:
        if leg.shards and not leg.platforms:
            everywhere.add(leg.shard)
            counts.setdefault("", leg.shards)
        for column in leg.platforms if leg.shards else ():
            there.setdefault(column.name, set()).add(leg.shard)
            counts[column.name] = leg.shards
    if there:
        counts.pop("", None)
    found = [
        f"shard {number} of {count}" + (f" on {name}" if name else "")
        for name, count in counts.items()
        for number in range(1, count + 1)
        if number not in everywhere and number not in there.get(name, ())
    ]
    more = [f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else []
    return found[:_NAMED] + more

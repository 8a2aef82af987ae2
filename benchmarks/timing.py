"""Timing side by side: rounds, medians, and how far a figure can be trusted.

Nothing here knows what is timed. On a machine that does other work as well, single times are worth
little; what is kept in step is the comparison, because both contenders run in every round.
"""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Series:
    """The measured values of one contender, one a round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        """The smallest value, to which other work on the machine has added least."""
        return min(self.values)

    def over(self, count: int) -> Series:
        """The values divided by ``count``, for a round that does a thing so many times."""
        return Series(tuple(value / count for value in self.values))


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    count: int,
    *,
    limit: float = math.inf,
    is_warm: bool = False,
) -> dict[str, Series]:
    """The seconds of each contender in ``count`` rounds, in each of which everyone runs once.

    Each round begins with another contender, so that nobody always runs after the same neighbour.
    A round that is not counted comes first, unless the caller says that caches are warm already.
    No round begins later than ``limit`` seconds after the first counted one, so there is one at
    least.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    end = math.inf
    for number in range(0 if is_warm else -1, count):
        if number == 0:
            end = time.perf_counter() + limit
        elif number > 0 and time.perf_counter() > end:
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            spent = _seconds(contenders[name])
            if number >= 0:
                seconds[name].append(spent)
    return {name: Series(tuple(values)) for name, values in seconds.items()}


def _seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def interval(
    ours: Series, peer: Series, compare: Callable[[float, float], float]
) -> tuple[float, float]:
    """The 95 % confidence interval of ``compare(median of ours, median of peer)``.

    A bootstrap: rounds are drawn again and again, both values of a round together.
    """
    rounds = list(zip(ours.values, peer.values, strict=True))
    draw = random.Random(0)  # the same rounds give the same interval
    figures = sorted(
        _of_medians(draw.choices(rounds, k=len(rounds)), compare) for _ in range(_RESAMPLES)
    )
    return figures[_RESAMPLES // 40], figures[-1 - _RESAMPLES // 40]


def _of_medians(
    rounds: Sequence[tuple[float, float]], compare: Callable[[float, float], float]
) -> float:
    return compare(*(statistics.median(side) for side in zip(*rounds, strict=True)))

"""The rows of the table: each has a figure, its origin, and the target for it."""

from __future__ import annotations

import dataclasses
import enum

from benchmarks.timing import Series, interval


class Figure(enum.StrEnum):
    """The way from measurements to a row's figure."""

    RATIO = "ratio of medians"
    DIFFERENCE = "difference of medians in seconds"
    TIME = "median in seconds"
    LARGEST = "largest value in MiB"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One row of the table. Targets are upper bounds."""

    row: str
    what: str
    against: str
    figure: Figure
    ours: Series
    peer: Series | None = None
    target: float

    @property
    def value(self) -> float:
        """The figure."""
        return self.figure_of(self.ours)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The figure's 95 % confidence interval, where it compares two contenders."""
        return self.interval_of(self.ours)

    @property
    def met(self) -> bool:
        """Whether the figure reaches its target."""
        return self.value <= self.target

    def figure_of(self, series: Series) -> float:
        """The figure with these values in the place of ours."""
        if self.peer is None:
            return max(series.values) if self.figure is Figure.LARGEST else series.median
        return self._compare(series.median, self.peer.median)

    def interval_of(self, series: Series) -> tuple[float, float] | None:
        """The same of the figure with these values in the place of ours. One round has none."""
        if self.peer is None or len(series.values) < 2:
            return None
        return interval(series, self.peer, self._compare)

    def _compare(self, ours: float, peer: float) -> float:
        return ours / peer if self.figure is Figure.RATIO else ours - peer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Floored(Result):
    """A row with a goal, and its floor."""

    floor: Series | None = None
    """The values of the same work with nothing of ours, in the same rounds, where measured."""

    floor_by: str
    """The contender that made them."""

    @property
    def is_out_of_reach(self) -> bool:
        """Whether the floor itself misses the target, with all of its interval if it has one."""
        if self.floor is None or len(self.floor.values) < 2:
            return False
        least = self.interval_of(self.floor) or (self.figure_of(self.floor),)
        return least[0] > self.target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One step on the way of a run."""

    name: str
    seconds: Series


@dataclasses.dataclass(frozen=True, kw_only=True)
class Missing:
    """A row without a figure. The row is a failure unless the peer is absent."""

    row: str
    why: str
    failed: bool


class Unavailable(Exception):
    """The peer is not available on this machine: its row has no figure, and nothing failed."""

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
    COUNT = "number"


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
        if self.peer is None:
            return max(self.ours.values) if self.figure is Figure.LARGEST else self.ours.median
        return self._compare(self.ours.median, self.peer.median)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The figure's 95 % confidence interval, where it compares two contenders in rounds."""
        if self.peer is None or len(self.ours.values) < 2:
            return None
        return interval(self.ours, self.peer, self._compare)

    @property
    def met(self) -> bool:
        """Whether the figure reaches its target."""
        return self.value <= self.target

    def _compare(self, ours: float, peer: float) -> float:
        return ours / peer if self.figure is Figure.RATIO else ours - peer


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

"""Requirements on releases: comparisons with the date in a version, as ``>=20240729,<20250101``.

Does no input or output.
"""

from __future__ import annotations

import datetime as dt
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from pytest_gvisor.base.errors import UnwantedRelease, UsageError
from pytest_gvisor.base.escape import escape

_CLAUSE = re.compile(r"(>=|<=|==|<|>)\s*(\d{4})(\d\d)(\d\d)(?:\.(\d{1,6}))?", re.ASCII)
_VERSION = re.compile(r"(?<!\d)(20\d{6})(?!\d)(?:\.(\d{1,6}))?", re.ASCII)
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


class Clause(NamedTuple):
    """One comparison. Without a ``.N`` in it, only the date counts."""

    sign: str
    release: tuple[int, ...]
    """The date as a number, and N where it was written."""

    @property
    def name(self) -> str:
        """The release in the form for users."""
        return ".".join(map(str, self.release))

    def allows(self, release: tuple[int, int]) -> bool:
        """Whether the comparison holds for a release."""
        return _OPERATORS[self.sign](release[: len(self.release)], self.release)


@dataclass(frozen=True, kw_only=True)
class ReleaseRange:
    """Comparisons that all have to hold."""

    clauses: tuple[Clause, ...]

    @classmethod
    def parse(cls, text: object, name: str) -> Self:
        """Parse comparisons. Raises `UsageError` for anything else."""
        if not isinstance(text, str):
            raise UsageError(f"{name}={text!r} is not a text such as '>=20240729'")
        return cls(clauses=tuple(_clause(part.strip(), text, name) for part in text.split(",")))

    def __str__(self) -> str:
        """Return the comparisons in the form for users."""
        return ",".join(f"{clause.sign}{clause.name}" for clause in self.clauses)

    def problem(self, version: str) -> str:
        """Return why a version breaks a comparison; ``""`` if it breaks none."""
        found = _VERSION.search(version)
        if found is None:
            return "its version has no date, so nothing tells which release it is"
        release = int(found[1]), int(found[2] or 0)
        broken = [clause for clause in self.clauses if not clause.allows(release)]
        return " and ".join(f"it is not {clause.sign}{clause.name}" for clause in broken)

    def check(self, version: str, path: str, who: str) -> None:
        """Raise `UnwantedRelease` for a runsc of a release that ``who`` does not allow."""
        problem = self.problem(version)
        if problem:
            included = [clause.name for clause in self.clauses if "=" in clause.sign]
            newest = max(included, default="YYYYMMDD")
            raise UnwantedRelease(
                f"runsc {version} ({escape(path)}) is not the release that {who} asks for, "
                f"{self}: {problem}",
                version=version,
                wanted=str(self),
                next_step=f"`pytest-gvisor install --release {newest}` installs one that is.",
            )


def _clause(part: str, text: str, name: str) -> Clause:
    found = _CLAUSE.fullmatch(part)
    if found is None:
        raise UsageError(
            f"{name}={text!r}: {part!r} is not one of >=, <=, ==, < and > before a release's date, "
            "such as '>=20240729' or '>=20240729.0,<20250101'"
        )
    sign, year, month, day, number = found.groups()
    try:
        dt.date(int(year), int(month), int(day))
    except ValueError:
        raise UsageError(f"{name}={text!r}: {part!r} has no date of the calendar") from None
    date = int(f"{year}{month}{day}")
    return Clause(sign=sign, release=(date,) if number is None else (date, int(number)))

"""The short form of a passed phase's report, for phases without anything else to report.

Most phases of most suites are such ones. Used inside the sandbox alone: standard library only.
"""

from __future__ import annotations

from typing import Any

_KNOWN = frozenset({
    "duration", "start", "stop", "when",  # the short form has them
    "_id", "keywords", "location", "longrepr", "nodeid", "outcome", "sections", "user_properties",
})  # fmt: skip
_PYTEST = ("_pytest.", "pytest_subtests.")


def is_usual(hook: Any) -> bool:
    """Whether pytest alone turns reports to data and back, so that they are as it makes them."""
    return all(
        str(getattr(implementation.plugin, "__name__", "")).startswith(_PYTEST)
        for caller in (hook.pytest_report_to_serializable, hook.pytest_report_from_serializable)
        for implementation in caller.get_hookimpls()
    )


class Shortener:
    """A maker of short forms, for one session."""

    def __init__(self, *, usual: bool) -> None:
        self._usual = usual
        self._keywords: list[str] = []

    def begin(self, item: Any) -> None:
        """Begin with a test: the host knows the keywords that it has now."""
        self._keywords = [*item.keywords]

    def short(self, report: Any) -> dict[str, Any] | None:
        """Return the fields of a report's short form; None for a report that has more to say."""
        fields = vars(report)
        if (
            not self._usual
            or report.outcome != "passed"
            or report.longrepr is not None
            or report.sections
            or report.user_properties
            or [*report.keywords] != self._keywords
            or type(report).__name__ != "TestReport"
            or not fields.keys() <= _KNOWN
        ):
            return None
        return {"when": report.when, "times": (report.duration, report.start, report.stop)}

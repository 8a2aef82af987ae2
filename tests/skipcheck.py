"""A skip is never a pass: fails each skipped test whose reason allowed-skips.txt does not list.

A pytest plugin for this repository's own suite, loaded by the conftest at the top. It is active
under ``--gvisor-strict`` and where ``TESTS_STRICT_SKIPS`` is set, as `make test` does.
"""

import dataclasses
import os
import re
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Self

import pytest

ALLOWED = Path(__file__).with_name("allowed-skips.txt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """A line of the list: a reason, and its part of the suite (``""``: both)."""

    pattern: str
    leg: str = ""

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read ``[part] pattern``; raises `ValueError` for an unknown part of the suite."""
        match = re.fullmatch(r"(?:\[(\w*)\] *)?([^\s\[].*)", line)
        if not match or match[1] not in {None, "root", "user"}:
            raise ValueError(f"not a rule for skips: {line!r}")
        return cls(pattern=match[2], leg=match[1] or "")

    def allows(self, reason: str, leg: str) -> bool:
        """Whether a test may be skipped for this reason in this part of the suite."""
        expression = ".*".join(re.escape(part) for part in self.pattern.split("*"))
        return self.leg in {"", leg} and bool(re.fullmatch(expression, reason, re.DOTALL))


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Read the list; blank lines and lines that start with ``#`` say nothing."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return tuple(Rule.parse(line) for line in lines if line and not line.startswith("#"))


class SkipCheck:
    """Turns reports of unlisted skips into failures, where they are made."""

    def __init__(self, rules: Sequence[Rule], leg: str) -> None:
        self.rules = rules
        self.leg = leg

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if not hasattr(report, "wasxfail"):
            self._judge(report)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self,
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        self._judge(report)
        return report

    def _judge(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or not isinstance(report.longrepr, tuple):
            return
        path, line, message = report.longrepr
        reason = message.removeprefix("Skipped: ")
        if any(rule.allows(reason, self.leg) for rule in self.rules):
            return
        report.outcome = "failed"
        report.longrepr = (
            f"{path}:{line}: skipped for a reason that {ALLOWED.parent.name}/{ALLOWED.name} "
            f"does not list for the leg [{self.leg}]: {reason}"
        )


def pytest_configure(config: pytest.Config) -> None:
    strict = config.getoption("gvisor_strict", default=False)
    if strict or os.environ.get("TESTS_STRICT_SKIPS"):
        leg = "root" if os.geteuid() == 0 else "user"
        config.pluginmanager.register(SkipCheck(read_rules(ALLOWED), leg), "skipcheck-active")

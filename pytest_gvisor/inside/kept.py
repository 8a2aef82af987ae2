"""What the host keeps of a session's tests inside until its end, and what it says of the rest."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import pytest

from pytest_gvisor.errors import PytestGvisorWarning
from pytest_gvisor.inside.plan import FIELDS

_MOST_NAMES = 20


class Kept:
    """The bounds of one session, and one line about what they left out."""

    def __init__(self, config: pytest.Config, fields: Iterable[str] = ()) -> None:
        self._config = config
        self.fields = frozenset(fields)
        """Fields of reports that the project names, for hooks of its own."""

        self._left_out: dict[str, None] = {}

    def leave_out(self, names: Iterable[str]) -> None:
        """Note fields of a report that no rule lets through, in words."""
        for name in names:
            if len(self._left_out) <= _MOST_NAMES:
                self._left_out[name] = None

    def close(self) -> None:
        """Say what was left out."""
        if self._left_out:
            names = list(self._left_out)
            more = ", …" if len(names) > _MOST_NAMES else ""
            self.say(
                "fields of reports from inside were left out, because plugins on the host would "
                f"act on them: {', '.join(names[:_MOST_NAMES])}{more}. Name one that hooks of this "
                f"project read, as plain data, in the ini key {FIELDS}."
            )
            self._left_out.clear()

    def say(self, text: str) -> None:
        """Warn. Where warnings are errors, it is a line on standard error: tests have ended."""
        warning = PytestGvisorWarning(text)
        try:
            self._config.issue_config_time_warning(warning, stacklevel=1)
        except PytestGvisorWarning:
            print(f"{type(warning).__name__}: {warning}", file=sys.stderr)

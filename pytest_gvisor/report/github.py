"""The table in the summary of a GitHub Actions job."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pytest_gvisor.report.model import Report

VARIABLE = "GITHUB_STEP_SUMMARY"
BUDGET = 900 * 1024
"""Bytes of the file that are used; GitHub drops a step's summary of more than 1 MiB as a whole."""


def append(report: Report, environ: Mapping[str, str]) -> str:
    """Append the table to the file that the variable names; return the problem, or nothing."""
    path = environ.get(VARIABLE)
    if not path:
        return ""
    from pytest_gvisor.report import markdown  # noqa: PLC0415 -- most sessions write none

    try:
        # Other tools of the same step have written to it as well.
        used = os.path.getsize(path) if os.path.exists(path) else 0
        text = markdown.render(report, max(0, BUDGET - used))
        data = f"\n{text}".encode("utf-8", "backslashreplace")
        if used + len(data) > BUDGET:
            return f"it has {used} bytes already, and there is no room for a table"
        with open(path, "ab") as file:
            file.write(data)
    except OSError as error:
        return error.strerror or str(error)
    return ""

"""The file of a report, whose suffix selects the format; and the summary of a GitHub job."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Mapping

from pytest_gvisor.base.errors import ReportError, UsageError
from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.setting_values import report_paths
from pytest_gvisor.base.trust import follow, is_planted
from pytest_gvisor.programs import linux
from pytest_gvisor.report.model import MAX_BYTES, Report

VARIABLE = "GITHUB_STEP_SUMMARY"
BUDGET = 900 * 1024
"""Bytes of the file that are used; GitHub drops a step's summary of more than 1 MiB as a whole."""


def at_once(path: str, flags: int) -> int:
    """Open a file without waiting for the other end of a pipe. Raises `OSError`."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def check(path: str) -> str:
    """Make the folder if it is missing, and check that a file can be made in it.

    Return the path without a link above the file, for `write` and `replaced`: what runs meanwhile
    may put one there. Raises `ReportError`.
    """
    try:
        report_paths([path], "path")
    except UsageError as error:
        raise ReportError(error.message) from error
    above, name = os.path.split(os.path.abspath(path))
    try:
        if os.path.isdir(path):
            raise ReportError(f"{escape(path)} is a folder")
        folder = made(above)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ReportError(
            f"{escape(path)} cannot be written: {escape(str(error.strerror))}",
            next_step="Name a place where this user may make files.",
        ) from error
    return os.path.join(folder, name)


def made(folder: str) -> str:
    """Make a folder, and those above it, where they are missing; return its path without links.

    Raises `OSError`, also for a link that another user has put into a folder such as ``/tmp``:
    os.path.realpath would follow one where the kernel does not.
    """
    if not os.path.lexists(folder):
        above, name = os.path.split(folder)
        os.makedirs(os.path.join(made(above), name), exist_ok=True)
    with contextlib.ExitStack() as held:
        way = follow(folder, held)
        for lookup in filter(is_planted, way.lookups):
            raise PermissionError(errno.EACCES, f"{lookup.entry.path} is a link of another user's")
        return way.stack[-1].path


def rendered(report: Report, suffix: str, budget: int | None = None) -> str:
    """Render the report as ``.html`` or ``.md``, Markdown in as many bytes at most."""
    # Jinja2 takes longer to import than all modules of the report together.
    from pytest_gvisor.report import html, markdown  # noqa: PLC0415 -- most sessions write none

    return html.render(report) if suffix == ".html" else markdown.render(report, budget)


def write(report: Report, path: str) -> str:
    """Write the whole file or nothing to a path of `check`; return the problem, or nothing."""
    suffix = os.path.splitext(path)[1]
    try:
        return replaced(path, report.pieces() if suffix == ".json" else [rendered(report, suffix)])
    except (OSError, MemoryError) as error:  # where it is rendered
        return getattr(error, "strerror", "") or str(error) or os.strerror(errno.ENOMEM)


def replaced(path: str, pieces: Iterable[str]) -> str:
    """Put a new file in the place of a path of `check`; return the problem, or "".

    A link that is there is replaced, and not followed.
    """
    above, name = os.path.split(path)
    try:
        with linux.closing(os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as folder:
            # Not by a second look at the path: a link may come and go between the two.
            if os.readlink(f"/proc/self/fd/{folder}") != above:
                raise OSError(errno.ELOOP, "a part of its path has become a link")
            with (
                linux.new_file(folder, name) as new,
                open(new, "w", encoding="utf-8", errors="backslashreplace", closefd=False) as file,
            ):
                file.writelines(pieces)
                if file.tell() > MAX_BYTES:
                    raise OSError(
                        errno.EFBIG, f"more than {MAX_BYTES} bytes, which no reader takes"
                    )
    except OSError as error:
        return f"{error.strerror}"
    return ""


def append_summary(report: Report, environ: Mapping[str, str]) -> str:
    """Append the table to the file that the variable names; return the problem, or nothing."""
    path = environ.get(VARIABLE)
    if not path:
        return ""
    try:
        # Other tools of the same step have written to it as well.
        used = os.path.getsize(path) if os.path.exists(path) else 0
        text = rendered(report, ".md", max(0, BUDGET - used))
        data = f"\n{text}".encode("utf-8", "backslashreplace")
        if used + len(data) > BUDGET:
            return f"it has {used} bytes already, and there is no room for a table"
        with open(path, "ab", opener=at_once) as file:
            file.write(data)
    except (OSError, MemoryError) as error:
        return getattr(error, "strerror", "") or str(error) or os.strerror(errno.ENOMEM)
    return ""

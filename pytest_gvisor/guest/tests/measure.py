"""Coverage in the sandbox, measured in the way of pytest-cov and sent in pieces.

For worker.py, which loads this file by its path. Imports nothing of pytest_gvisor.
"""

from __future__ import annotations

import base64
import contextlib
import glob
import itertools
import os
import sqlite3
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any

import coverage

_PATH = "/tmp/.pytest-gvisor-coverage"
_PIECE = 256 * 1024
_MOST_PAIRS = 20_000


class Coverage:
    """The measurement of this process, with the settings of pytest-cov on the host."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self._contexts = wanted["contexts"]
        # A child of multiprocessing names its data file as the project's settings do.
        self._children = glob.escape(wanted["data_file"]) + ".*"
        self._before = {*glob.glob(self._children)}
        config = wanted["config"]
        self._coverage = coverage.Coverage(
            config_file=config if config and os.path.exists(config) else False, data_file=_PATH
        )
        for name, value in wanted["settings"].items():
            self._coverage.set_option(f"run:{name}", value)
        self._coverage.start()

    def switch(self, nodeid: str, phase: str) -> None:
        """Count lines from here on for a phase of a test, by pytest-cov's name for the phase."""
        if self._contexts:
            self._coverage.switch_context(f"{nodeid}|{phase}")

    def pieces(self) -> Iterator[dict[str, Any]]:
        """Yield the measured coverage, file by file.

        With ``parallel`` or ``concurrency`` in the project's settings each process writes a data
        file of its own. The name of that file only begins like the one asked for.
        """
        self._coverage.stop()
        self._coverage.save()
        for path in sorted({*glob.glob(_PATH + "*"), *glob.glob(self._children)} - self._before):
            # A process that was killed leaves half a file.
            with (
                contextlib.closing(sqlite3.connect(path)) as data,
                contextlib.suppress(sqlite3.DatabaseError),
            ):
                yield from _of(data)


def _of(data: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    """Yield the pieces of one data file, by the schema that coverage documents."""
    contexts = dict(data.execute("SELECT id, context FROM context"))
    tracers = dict(data.execute("SELECT file_id, tracer FROM tracer"))
    for file_id, path in data.execute("SELECT id, path FROM file"):
        head = {"file": path, "tracer": tracers.get(file_id, "")}
        lines = data.execute(
            "SELECT context_id, numbits FROM line_bits WHERE file_id = ?", (file_id,)
        )
        arcs = data.execute(
            "SELECT context_id, fromno, tono FROM arc WHERE file_id = ? ORDER BY context_id",
            (file_id,),
        )
        yield head  # also of a file of which nothing ran
        yield from _gathered(head, "lines", _bitmaps(contexts, lines))
        yield from _gathered(head, "arcs", _pairs(contexts, arcs))


def _bitmaps(
    contexts: dict[int, str], rows: Iterable[tuple[int, bytes]]
) -> Iterator[tuple[int, list[Any]]]:
    for context, bits in rows:
        text = base64.b64encode(bits).decode()
        yield len(text), [contexts.get(context, ""), text]


def _pairs(
    contexts: dict[int, str], rows: Iterable[tuple[int, int, int]]
) -> Iterator[tuple[int, list[Any]]]:
    for context, group in itertools.groupby(rows, key=itemgetter(0)):
        while some := list(itertools.islice(group, _MOST_PAIRS)):
            numbers = [number for row in some for number in row[1:]]
            yield 6 * len(numbers), [contexts.get(context, ""), numbers]


def _gathered(
    head: dict[str, str], kind: str, parts: Iterable[tuple[int, list[Any]]]
) -> Iterator[dict[str, Any]]:
    """Group parts of one file into pieces of similar size: each piece costs the host some work."""
    some: list[list[Any]] = []
    size = 0
    for length, part in parts:
        some.append(part)
        size += length + len(part[0])
        if size > _PIECE:
            yield {**head, kind: some}
            some, size = [], 0
    if some:
        yield {**head, kind: some}

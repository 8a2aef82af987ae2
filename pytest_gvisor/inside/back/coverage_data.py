"""Coverage of tests inside: checked messages, turned into a data file for pytest-cov.

Only a session with pytest-cov imports this module. The host makes the data file itself, by
coverage's own API. A message can name only lines, jumps and contexts of regular files. Tests inside
can read these files, and cannot change them on the host.
"""

from __future__ import annotations

import base64
import functools
import os
import secrets
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from coverage import CoverageData, CoverageException
from coverage.numbits import numbits_to_nums

from pytest_gvisor.base.errors import ProtocolError
from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.trust import SHORTAGES
from pytest_gvisor.inside.view import configuration
from pytest_gvisor.inside.view.shown_files import ShownFiles
from pytest_gvisor.inside.wire import rules
from pytest_gvisor.inside.wire.session_bounds import SessionBounds
from pytest_gvisor.programs.paths import within

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

MOST_BYTES = 1024 * 1024 * 1024
"""Of the messages of one sandbox: thrice an estimate for numpy's suite with a context a test."""

MOST_ENTRIES = 50_000_000
"""Lines or jumps of all files and contexts of one sandbox: some 40 bytes each on disk."""

_MOST_HELD = 2_000_000
_HIGHEST_LINE = 1_000_000
_LONGEST_CONTEXT = 1024 * 1024
_PARTS = rules.list_of(rules.tuple_of(rules.exact_text, lambda entries: entries))


class InsideCoverage:
    """The coverage of one sandbox, written to a data file as it comes, for the host's ``cov``.

    It has ``files`` that tests inside see, and that they can neither write nor see empty. They are
    closed with it.
    """

    most_bytes = MOST_BYTES

    def __init__(self, cov: Any, files: ShownFiles, *, cwd: str, bounds: SessionBounds) -> None:
        self._cov = cov
        self._branch = bool(cov.get_option("run:branch"))
        self._files = files
        self._cwd = cwd
        self._bounds = bounds
        self._data: CoverageData | None = None
        self._file: CoverageData | None = None
        self._name = functools.cache(self._find_name)
        self._entries = self._held = 0
        self._lost: dict[str, None] = {}

    def take(self, message: dict[str, Any]) -> None:
        """Add the coverage in a message. Raises `ProtocolError` if it is malformed or too large."""
        with rules.reading("coverage from inside of no file"):
            path, tracer = map(rules.exact_text, (message["file"], message["tracer"]))
        name = self._name(path)
        if name is None or not self._is_traced(name, tracer):
            return
        kind, other = ("arcs", "lines") if self._branch else ("lines", "arcs")
        if other in message:
            raise ProtocolError(f"coverage from inside has {other}, and pytest-cov wants {kind}")
        with _convert_errors():
            data = self._open_data()
            data.touch_file(name, tracer)
            for context, entries in self._parts(message.get(kind, []), kind):
                data.set_context(context)
                if self._branch:
                    data.add_arcs({name: entries})
                else:
                    data.add_lines({name: entries})
            if self._held > _MOST_HELD:
                self._write()

    def _open_data(self) -> CoverageData:
        """Return the data in memory: a data file would be opened for each context."""
        if self._data is None:
            self._data = CoverageData(no_disk=True)
            (self._data.add_arcs if self._branch else self._data.add_lines)({})
        return self._data

    def _write(self) -> None:
        """Add the data in memory to the data file."""
        if self._data is None:
            return
        if self._file is None:
            end = f".gvisor.{secrets.token_hex(6)}"
            self._file = CoverageData(basename=configuration.data_file(self._cov) + end)
        self._file.update(self._data)
        self._data.close(force=True)
        self._data, self._held = None, 0

    def _find_name(self, path: str) -> str | None:
        """Return the name of a file in the data: its real path, relative if the given one is.

        None for what is no regular file below a folder that is shown.
        """
        try:
            os.fsencode(path).decode()  # coverage stores UTF-8
            real = self._files.find(os.path.normpath(os.path.join(self._cwd, path)))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None  # made inside, and gone with the sandbox: nothing here can show it
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) in SHORTAGES:
                raise ProtocolError(f"coverage that cannot be looked up: {error}") from error
            real = None
        if real is None:
            self._record_lost(path)
            return None
        here = os.path.realpath(self._cwd)
        if not os.path.isabs(path) and within(real, here):
            return os.path.relpath(real, here)
        return real

    def _is_traced(self, name: str, tracer: str) -> bool:
        known = not tracer or tracer in dict(self._cov.sys_info())["plugins.file_tracers"]
        # coverage combines no data in which two sandboxes name different plugins for a file.
        if known and self._bounds.tracers.setdefault(name, tracer) == tracer:
            return True
        self._record_lost(f"{name} (traced by {tracer})")
        return False

    def _record_lost(self, path: str) -> None:
        if len(self._lost) < 10:
            self._lost[escape(path)[:200]] = None

    def _parts(self, given: Any, kind: str) -> Iterator[tuple[str, list[Any]]]:
        read = _jumps if kind == "arcs" else _lines
        with rules.reading(f"coverage from inside whose {kind} are none"):
            for context, entries in _PARTS(given):
                if len(context) > _LONGEST_CONTEXT:
                    raise ValueError("a context of so many characters")
                found = read(entries)
                # A bitmap in memory is three quarters of its text. A context is kept as it is.
                size = len(found) + (len(entries) + len(context)) // 32
                self._held += size
                self._entries += size
                if self._entries > MOST_ENTRIES:
                    raise ProtocolError(f"more than {MOST_ENTRIES:,} lines or jumps of coverage")
                yield escape(context), found

    def finish(self) -> None:
        """Write the data in memory. Raises `ProtocolError`."""
        with _convert_errors():
            self._write()

    def close(self, *, complete: bool) -> None:
        """Keep the data file, or remove it if the sandbox did not come to its end."""
        if self._data is not None:
            self._data.close(force=True)
        if self._file is not None:
            self._file.close()
            if not complete:
                self._file.erase()
        self._files.close()
        if self._lost:
            self._bounds.say(
                "coverage from inside was left out of what is no regular file, is reached by a "
                "link, lies outside of the folders that tests inside see, or lies below "
                "--gvisor-writable, where they could put a link in its place: "
                f"{', '.join(self._lost)}"
            )


def _convert_errors() -> AbstractContextManager[None]:
    """Turn an error of coverage's into a `ProtocolError`.

    On a full disk, coverage raises what sqlite3 says of a file that it has just made.
    """
    return rules.reading("coverage that cannot be kept", (CoverageException, sqlite3.Error))


def _lines(bitmap: str) -> list[int]:
    """Return the line numbers of a bitmap, coverage's ``numbits`` in base64."""
    if len(bitmap) > _HIGHEST_LINE // 6:
        raise ValueError(f"a line beyond {_HIGHEST_LINE:,}")
    return numbits_to_nums(base64.b64decode(bitmap, validate=True))


def _jumps(numbers: list[int]) -> list[tuple[int, int]]:
    """Return pairs of line numbers; a negative one is the entry or exit of the code there."""
    for number in numbers:
        if type(number) is not int or abs(number) > _HIGHEST_LINE:
            raise ValueError(f"{number!r:.50} is no line")
    return list(zip(numbers[::2], numbers[1::2], strict=True))

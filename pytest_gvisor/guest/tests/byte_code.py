"""Byte code that the host has read for the pytest inside, up to its gate.

A file opened in the sandbox costs far more than on the host, and an import looks for several. The
host has loaded the same modules. So it stores their byte code in the memory that both sides have,
behind the messages of `unsent`. A module that is not there is imported from its files.

Used on both sides: standard library only, and as little of that as can be.
"""

from __future__ import annotations

import marshal
import os
import stat
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    Entry = tuple[str, bool, int, int, int, int]
    """A module's file, whether it is a package, its time and size, and offset and length of its
    byte code."""

PLACE = 64 * 1024
"""The offset of the head in the file; before it is the memory of `unsent`."""

MOST = 24 * 1024 * 1024
"""Bytes from there on."""

READY = b"bytecode"
"""The head begins with it, when all is stored; the length of the index follows, and the index."""

HEAD_SIZE = len(READY) + 4


class _Loader(SourceFileLoader):
    """A loader that has byte code, and is a usual one from when it has given that away."""

    def __init__(self, name: str, supply: Supply, entry: Entry) -> None:
        super().__init__(name, entry[0])
        self._supply, self._entry = supply, entry

    def path_stats(self, path: str) -> Mapping[str, int]:
        """Return the state of the source file, which the host has looked at."""
        del path
        _path, _is_package, mtime, size, _offset, _length = self._entry
        return {"mtime": mtime, "size": size}

    def get_data(self, path: str) -> bytes:
        """Return the byte code; the content of the source file where Python asks for that."""
        supply, entry = self._supply, self._entry
        del self._supply, self._entry
        self.__class__ = SourceFileLoader  # type: ignore[assignment]
        return self.get_data(path) if path == self.path else supply.read(entry)


class Supply:
    """A finder of the modules whose byte code is in a file."""

    def __init__(self, fd: int) -> None:
        """Take a descriptor of the file, and close it at the end; -1 is no file."""
        self._fd = fd
        self._index: Mapping[str, Entry] = {}

    def begin(self) -> None:
        """Find modules from here on, if the host has stored them by now."""
        if self._index or self._fd < 0:
            return
        head = os.pread(self._fd, HEAD_SIZE, PLACE)
        if head.startswith(READY):
            length = int.from_bytes(head[len(READY) :], "little")
            self._index = marshal.loads(os.pread(self._fd, length, PLACE + HEAD_SIZE))
            # In front of the files: what is built in or frozen is not looked for there either.
            finders: list[object] = sys.meta_path  # type: ignore[assignment]
            finders.insert(finders.index(PathFinder) if PathFinder in finders else 0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the finder of files returns for a module."""
        del target
        entry = self._index.get(name)
        if entry is None:
            return None
        file, is_package = entry[:2]
        folder = os.path.dirname(file)
        # A package may look for its modules in other folders than the host's does.
        if path is not None and (os.path.dirname(folder) if is_package else folder) not in path:
            return None
        spec = ModuleSpec(name, _Loader(name, self, entry), origin=file, is_package=is_package)
        spec.has_location = True
        if is_package:
            spec.submodule_search_locations = [folder]
        return spec

    def read(self, entry: Entry) -> bytes:
        """Return the byte code of a module."""
        offset, length = entry[4:]
        return os.pread(self._fd, length, offset)

    def end(self) -> None:
        """Find nothing any more."""
        finders: list[object] = sys.meta_path  # type: ignore[assignment]
        if self in finders:
            finders.remove(self)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._index = -1, {}


def supplied() -> Supply:
    """Return the supply in the file that came as descriptor 1; an empty one where none came."""
    state = os.fstat(1)
    came = stat.S_ISREG(state.st_mode) and state.st_size >= PLACE + MOST
    supply = Supply(os.dup(1) if came else -1)
    supply.begin()
    return supply

"""The host's modules for the pytest inside: their byte code, as files have it by now."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import marshal
import os
import struct
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader

from pytest_gvisor import guest
from pytest_gvisor.guest.tests import byte_code

_PACKAGE, _GUEST = "pytest_gvisor.", "pytest_gvisor.guest."
_OURS = ("pytest_gvisor.plugin.", "pytest_gvisor.base.setting_table", "pytest_gvisor.inside.hooks")
"""The modules of this package that a pytest inside imports begin so."""

Module = tuple[str, str, bool]
"""Name, file, and whether it is a package."""


def store(memory: int, holds: Callable[[str], bool]) -> None:
    """Store the byte code of modules that this process has loaded in a file in memory.

    ``holds`` says of a folder whether the sandbox shows it. Does nothing where there is no room.
    """
    holds = functools.cache(holds)
    index: dict[str, byte_code.Entry] = {}
    pieces: list[bytes] = []
    # The index is in front of it, and not longer than this.
    offset = start = byte_code.PLACE + byte_code.MOST // 8
    for name, path, is_package in (*_guests(), *_loaded()):
        if not holds(os.path.dirname(path)):
            continue
        found = _read(path, compiles=name.startswith(_GUEST))
        if found is None:
            continue
        data, mtime, size = found
        if offset + len(data) > byte_code.PLACE + byte_code.MOST:
            break
        index[name] = (path, is_package, mtime, size, offset, len(data))
        pieces.append(data)
        offset += len(data)
    packed = marshal.dumps(index, 4)
    head = byte_code.READY + len(packed).to_bytes(4, "little")
    if len(head) + len(packed) > start - byte_code.PLACE:
        return
    with contextlib.suppress(OSError):  # no memory
        if os.pwrite(memory, b"".join(pieces), start) == offset - start:
            os.pwrite(memory, packed, byte_code.PLACE + len(head))
            # Last of all: whoever finds it finds the rest.
            os.pwrite(memory, head, byte_code.PLACE)


def _guests() -> Iterator[Module]:
    """Yield the modules of the guest, which this process has not all loaded."""
    for part in ("tests", "wire"):
        folder = os.path.join(os.path.abspath(guest.__path__[0]), part)
        for file in sorted(os.listdir(folder)):
            if file.endswith(".py") and not file.startswith("_"):
                yield f"{_GUEST}{part}.{file[:-3]}", os.path.join(folder, file), False


def _loaded() -> Iterator[Module]:
    """Yield what this process has loaded from source files, in the usual way."""
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        # No module under another name than its own, nor one that pytest has rewritten.
        if spec is None or spec.name != name or type(spec.loader) is not SourceFileLoader:
            continue
        if name.startswith(_PACKAGE) and not name.startswith(_OURS):
            continue
        path, folders = spec.loader.path, spec.submodule_search_locations
        # A package of several folders finds its modules in another way.
        if os.path.isabs(path) and (folders is None or [*folders] == [os.path.dirname(path)]):
            yield name, path, folders is not None


def _read(path: str, *, compiles: bool) -> tuple[bytes, int, int] | None:
    """Return the byte code of a source file with its time and size; None if there is none of it.

    By the rules of Python's own import: the file of byte code names time and size of its source.
    ``compiles`` has missing byte code made and kept, as an import does. The host itself imports few
    modules of the guest, and some installers compile none.
    """
    with contextlib.suppress(OSError, NotImplementedError, SyntaxError):
        state = os.stat(path)
        mtime, size = int(state.st_mtime), state.st_size & 0xFFFFFFFF
        header = importlib.util.MAGIC_NUMBER + struct.pack("<III", 0, mtime & 0xFFFFFFFF, size)
        with contextlib.suppress(FileNotFoundError):
            with open(importlib.util.cache_from_source(path), "rb") as file:
                data = file.read()
            if data.startswith(header):
                return data, mtime, size
        if compiles:
            code = SourceFileLoader(path, path).get_code(path)
            return header + marshal.dumps(code), mtime, size
    return None

"""ELF headers: an executable's machine, loader and libraries, which start before its own code.

A dynamic program names its loader, its libraries and folders to find these in. Whoever can write
there runs code in its place, so these are judged by the rules for the program itself. Libraries
from the system's own folders are root's, and are not looked at.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
import struct
from typing import TYPE_CHECKING

from pytest_gvisor.escape import escape
from pytest_gvisor.trust import (
    SHORTAGES,
    WRITABLE_BY_OTHERS,
    Trust,
    Way,
    file_problems,
    folder_problem,
    follow,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_NULL, _NEEDED, _STRINGS = 0, 1, 5
_FOLDERS = {15: "RPATH", 29: "RUNPATH"}
# Further libraries: DT_DEPAUDIT, DT_AUDIT, DT_AUXILIARY, DT_FILTER.
_LIBRARIES = frozenset({_NEEDED, 0x6FFFFEFB, 0x6FFFFEFC, 0x7FFFFFFD, 0x7FFFFFFF})
_MOST_HEADERS = 256
_MOST_BYTES = 1 << 20
_LONGEST = 64 * 1024
_ORIGIN = re.compile(r"\$(ORIGIN\b|\{ORIGIN\})", re.ASCII)
# Below a folder the loader tries these first, for processors that have more.
_BETTER = ("glibc-hwcaps", "tls")


def head_problem(head: bytes) -> str | None:
    """Return why a file with this head is no program for this machine, or None."""
    kind = _kind(head)
    if kind is None:
        return "it is not an ELF executable"
    if kind != _own_kind():
        return f"it is an ELF file of another machine (e_machine {kind[2]})"
    return None


def _kind(head: bytes) -> tuple[int, int, int] | None:
    """Return class, byte order and machine of an ELF executable, or None for another file."""
    if len(head) < 20 or not head.startswith(b"\x7fELF"):
        return None
    order = head[5]
    numbers = [
        int.from_bytes(head[at : at + 2], "big" if order == 2 else "little") for at in (16, 18)
    ]
    kind, machine = numbers
    return (head[4], order, machine) if kind in {2, 3} else None  # ET_EXEC, ET_DYN


@functools.cache
def _own_kind() -> tuple[int, int, int] | None:
    with open("/proc/self/exe", "rb") as file:
        return _kind(file.read(64))


def loading_problems(fd: int, path: str, trust: Trust) -> Iterator[str]:
    """Yield why other users could load a library into the program ``fd`` at ``path``.

    Nothing for what is no program of this machine: nothing of it is loaded. Raises OSError where
    this process is short of what it takes to look.
    """
    if head_problem(head := os.pread(fd, 64, 0)):
        return
    if head[4] != 2:
        yield "it is a 32-bit program: its libraries cannot be checked"
        return
    try:
        loader, texts = _dynamic_section(fd, head)
    except (struct.error, ValueError):
        yield "its dynamic section cannot be read, so its libraries cannot be checked"
        return
    if loader:
        yield from _library_problems(loader, "", trust)
    names = [value for tag, value in texts if tag in _LIBRARIES]
    for name in names:
        if "/" in name:
            yield from _library_problems(name, path, trust)
    for tag, value in texts:
        for written in value.split(":") if tag in _FOLDERS else ():
            yield from _search_problems(written, _FOLDERS[tag], path, names, trust)


def loader_of(path: str) -> str:
    """Return the loader that a 64-bit program names (elf(5), PT_INTERP), or ``""``.

    Raises `OSError`, and `ValueError` for headers that cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(64)
        if head_problem(head) or head[4] != 2:
            return ""
        try:
            return _dynamic_section(file.fileno(), head)[0]
        except struct.error as error:
            raise ValueError(str(error)) from error


def _dynamic_section(fd: int, head: bytes) -> tuple[str, list[tuple[int, str]]]:
    """Return the loader's path, or ``""``, and the texts of the dynamic section by tag."""
    order = ">" if head[5] == 2 else "<"
    offset, size, count = struct.unpack_from(f"{order}Q14xHH", head, 32)
    if size != 56:
        return "", []  # ENOEXEC: the kernel loads no other
    if count > _MOST_HEADERS:
        raise ValueError(count)
    table = os.pread(fd, size * count, offset)
    # Type, flags, offset, address, physical address, size in the file, in memory, alignment.
    headers = [struct.unpack_from(f"{order}IIQQQQQQ", table, at * size) for at in range(count)]
    loader, said = "", list[tuple[int, str]]()
    for kind, _, start, _, _, length, *_ in headers:
        if kind == _INTERPRETER:
            loader = _text(fd, start)
        elif kind == _DYNAMIC:
            if length > _MOST_BYTES:
                raise ValueError(length)
            data = os.pread(fd, length, start)
            entries = list(struct.iter_unpack(f"{order}QQ", data[: len(data) // 16 * 16]))
            tags = [tag for tag, _ in entries]
            entries = entries[: tags.index(_NULL)] if _NULL in tags else entries
            wanted = [(tag, at) for tag, at in entries if tag in _LIBRARIES or tag in _FOLDERS]
            if wanted:
                address = dict(entries).get(_STRINGS, 0)
                strings = _offset(headers, address)
                said += [(tag, _text(fd, strings + at)) for tag, at in wanted]
    return loader, said


def _offset(headers: list[tuple[int, ...]], address: int) -> int:
    """Return the file offset of an address of the program."""
    for kind, _, start, first, _, length, *_ in headers:
        if kind == _LOAD and first <= address < first + length:
            return start + address - first
    raise ValueError(address)


def _text(fd: int, offset: int) -> str:
    if not 0 <= offset < 2**62:
        raise ValueError(offset)
    text, end, _ = os.pread(fd, _LONGEST, offset).partition(b"\0")
    if not end:
        raise ValueError(offset)
    return os.fsdecode(text)


def _search_problems(
    written: str, tag: str, path: str, names: list[str], trust: Trust
) -> Iterator[str]:
    """Yield why a folder with libraries is unsafe, or a file in it."""
    folder = _expanded(written, path)
    about = f"it looks for libraries in {escape(written) or 'the current folder'} ({tag})"
    if not folder.startswith("/") or "$" in folder:
        yield f"{about}, which is no fixed folder"
        return
    folders = [folder]
    for better in _BETTER:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            below = os.path.join(folder, better)
            folders += [below, *(os.path.join(below, name) for name in sorted(os.listdir(below)))]
    for place in folders:
        for problem in _folder_problems(place, trust):
            yield f"{about}: {problem}"
        for name in names:
            if "/" not in name and os.path.lexists(library := os.path.join(place, name)):
                yield from _library_problems(library, path, trust)


def _expanded(written: str, path: str) -> str:
    return _ORIGIN.sub(lambda _: os.path.dirname(path), written)


def _folder_problems(path: str, trust: Trust) -> Iterator[str]:
    """Yield why other users could put a library into this folder, which may be missing."""
    with contextlib.ExitStack() as held:
        way = _nearest(path, held)
        if isinstance(way, str):
            yield way
            return
        yield from filter(None, (folder_problem(lookup, trust) for lookup in way.lookups))
        node = way.stack[-1]
        mode = stat.S_IMODE(node.info.st_mode)
        if not stat.S_ISDIR(node.info.st_mode) or trust.sealed_in_store(node):
            return
        known = f"the folder {escape(node.path)} (mode {mode:04o}, owner uid {node.info.st_uid})"
        # Sticky or not: a library that is not there yet can be added.
        if mode & WRITABLE_BY_OTHERS:
            yield f"{known} can be written by others"
        if not trust.owns(node):
            yield f"{known} is neither root's nor uid {trust.euid}'s"


def _nearest(path: str, held: contextlib.ExitStack) -> Way | str:
    """Return the way to a folder or its nearest existing parent, or the reason for none."""
    while True:
        try:
            return follow(path, held)
        except (FileNotFoundError, NotADirectoryError):
            path = os.path.dirname(path.rstrip("/")) or "/"
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            return f"{escape(path)} cannot be reached: {os.strerror(error.errno or 0)}"


def _library_problems(written: str, path: str, trust: Trust) -> Iterator[str]:
    """Yield why a loaded file is unsafe."""
    name = _expanded(written, path)
    about = f"it loads {escape(written)}"
    if not name.startswith("/") or "$" in name:
        yield f"{about}, which is no fixed path"
        return
    with contextlib.ExitStack() as held:
        try:
            way = follow(name, held)
        except (FileNotFoundError, NotADirectoryError):
            yield from (
                f"{about}: {problem}" for problem in _folder_problems(os.path.dirname(name), trust)
            )
            return
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            yield f"{about}, which cannot be reached: {os.strerror(error.errno or 0)}"
            return
        found = [
            *(folder_problem(lookup, trust) for lookup in way.lookups),
            *file_problems(way.stack[-1], way.lookups[-1].folder, trust),
        ]
        yield from (f"{about}: {problem}" for problem in filter(None, found))

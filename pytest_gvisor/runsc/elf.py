"""ELF files: a program's machine, its loader and libraries, and the Go that built it.

A dynamic program names its loader, its libraries and folders to find these in. Their code runs
before its own. A user who can write to them can run code in its place, so they are checked by the
rules for the program itself. Libraries in the system's own folders belong to root, and are not
looked at.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import stat
import struct
from collections.abc import Iterator

from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.trust import (
    Trust,
    add_problem,
    file_problems,
    folder_problem,
    follow,
    text_of,
)

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

# debug/buildinfo of Go 1.18 and later: the magic, the size of a pointer, flags of which 2 says that
# the strings are inline, and at byte 32 the length of the version's text. A version has fewer than
# 128 bytes, so one byte of length is enough.
_BUILD_INFO = re.compile(
    rb"\xff Go buildinf:.[\x02\x03].{16}(?P<length>[\x00-\x7f])go(?P<version>\d[\w.+-]*)",
    re.DOTALL | re.ASCII,
)
_ALIGNED = 16


def head_problem(head: bytes) -> str | None:
    """Return why a file with this head is no program for this machine, or None."""
    is_program = head[16:18].strip(b"\0") in {b"\2", b"\3"}  # ET_EXEC, ET_DYN
    if len(head) < 20 or not head.startswith(b"\x7fELF") or not is_program:
        return "it is not an ELF executable"
    if _kind(head) != _own_kind() or head[4] != 2:
        return "it is an ELF file of another machine"
    return None


def _kind(head: bytes) -> bytes:
    """Return the class, byte order and machine of an ELF file."""
    return head[4:6] + head[18:20]


def _own_kind() -> bytes:
    with open("/proc/self/exe", "rb") as file:
        return _kind(file.read(20))


def loading_problems(fd: int, path: str, trust: Trust) -> Iterator[str]:
    """Yield why other users could load a library into the program ``fd`` at ``path``.

    A file that is no program of this machine has no problems, because no loader is started for it.
    Raises OSError if this process has too few descriptors or too little memory to look.
    """
    if head_problem(head := os.pread(fd, 64, 0)):
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
        if head_problem(head):
            return ""
        try:
            return _dynamic_section(file.fileno(), head)[0]
        except struct.error as error:
            raise ValueError(str(error)) from error


def _dynamic_section(fd: int, head: bytes) -> tuple[str, list[tuple[int, str]]]:
    """Return the loader's path, or ``""``, and the texts of the dynamic section by tag."""
    offset, size, count = struct.unpack_from("=Q14xHH", head, 32)
    if size != 56:
        return "", []  # ENOEXEC: the kernel loads no other
    if count > _MOST_HEADERS:
        raise ValueError(count)
    table = os.pread(fd, size * count, offset)
    # Type, flags, offset, address, physical address, size in the file, in memory, alignment.
    headers = [struct.unpack_from("=IIQQQQQQ", table, at * size) for at in range(count)]
    loader, said = "", list[tuple[int, str]]()
    for kind, _, start, _, _, length, *_ in headers:
        if kind == _INTERPRETER:
            loader = _text(fd, start)
        elif kind == _DYNAMIC:
            if length > _MOST_BYTES:
                raise ValueError(length)
            data = os.pread(fd, length, start)
            entries = list(struct.iter_unpack("=QQ", data[: len(data) // 16 * 16]))
            tags = [tag for tag, _ in entries]
            entries = entries[: tags.index(_NULL)] if _NULL in tags else entries
            wanted = [(tag, at) for tag, at in entries if tag in _LIBRARIES or tag in _FOLDERS]
            if wanted:
                strings = _offset(headers, dict(entries).get(_STRINGS, 0))
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
    about = f"it looks for libraries in {escape(written) or 'the current folder'} ({tag})"
    folder = _fixed(written, path)
    if not folder:
        yield f"{about}, which is no fixed folder"
        return
    folders = [folder]
    for better in _BETTER:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            below = os.path.join(folder, better)
            folders += [below, *(os.path.join(below, name) for name in sorted(os.listdir(below)))]
    for place in folders:
        yield from (f"{about}: {problem}" for problem in _problems_at(place, trust, folder=True))
        for name in names:
            if "/" not in name and os.path.lexists(library := os.path.join(place, name)):
                yield from _library_problems(library, path, trust)


def _library_problems(written: str, path: str, trust: Trust) -> Iterator[str]:
    """Yield why a loaded file is unsafe."""
    about = f"it loads {escape(written)}"
    if name := _fixed(written, path):
        yield from (f"{about}: {problem}" for problem in _problems_at(name, trust, folder=False))
    else:
        yield f"{about}, which is no fixed path"


def _fixed(written: str, path: str) -> str:
    """Return the absolute path that the program at ``path`` means, or ``""`` if it varies."""
    found = _ORIGIN.sub(lambda _: os.path.dirname(path), written)
    return found if found.startswith("/") and "$" not in found else ""


def _problems_at(path: str, trust: Trust, *, folder: bool) -> Iterator[str]:
    """Yield why other users could change the file ``path``, or a library in that ``folder``.

    If it is missing, the nearest existing parent is checked, as a folder.
    """
    with contextlib.ExitStack() as held:
        while True:
            try:
                way = follow(path, held)
                break
            except (FileNotFoundError, NotADirectoryError):
                path, folder = os.path.dirname(path.rstrip("/")) or "/", True
            except OSError as error:
                yield f"{escape(path)} cannot be reached: {text_of(error)}"
                return
        node = way.stack[-1]
        yield from filter(None, (folder_problem(lookup, trust) for lookup in way.lookups))
        if not folder and way.lookups:
            yield from file_problems(node, way.lookups[-1].folder, trust)
        elif stat.S_ISDIR(node.info.st_mode) and not trust.sealed_in_store(node):
            # Sticky or not: a library that is not there yet can be added.
            if problem := add_problem(node):
                yield problem
            if not trust.owns(node):
                yield f"the folder {escape(node.path)} is {trust.stranger(node)}"


def go_version(fd: int) -> str:
    """Return the version of Go that built the open file, such as ``1.24.4``, or ``""``.

    It is that of the build info of Go's linker. The offset of ``fd`` stays where it is.
    """
    with contextlib.suppress(OSError, ValueError):  # ValueError: an empty file cannot be mapped
        data = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        for info in _BUILD_INFO.finditer(data):
            # The name of the magic may stand in the program's own text, at any place.
            if info.start() % _ALIGNED == 0:
                return info["version"][: ord(info["length"]) - 2].decode("ascii")
    return ""

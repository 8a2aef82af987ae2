"""The version of Go that built a binary, from the build info of Go's linker.

Only the version is read, within bounds; nothing is started, and no Go has to be installed.
"""

from __future__ import annotations

import os
import re

# debug/buildinfo of Go 1.18 and later: the magic, the size of a pointer, flags of which 2 says that
# the strings are inline, and at byte 32 the length and the text of the version.
_MAGIC = b"\xff Go buildinf:"
_INLINE = 2
_HEADER = 32
_ALIGNED = 16
_CHUNK = 1 << 20
_MAX = 512 << 20
_VERSION = re.compile(rb"go(\d+(?:\.\d+)*[\w.+-]*)", re.ASCII)


def go_version(fd: int) -> str:
    """Return the version of Go, such as ``1.24.4``, or ``""`` if the open file has none.

    The offset of ``fd`` stays where it is.
    """
    offset = 0
    tail = b""
    try:
        while offset < _MAX and (data := os.pread(fd, _CHUNK, offset)):
            chunk = tail + data
            start = offset - len(tail)
            place = chunk.find(_MAGIC)
            while place >= 0:
                # The name of the magic may stand in the program's own text, at any place.
                if (start + place) % _ALIGNED == 0 and (found := _at(fd, start + place)):
                    return found
                place = chunk.find(_MAGIC, place + 1)
            offset += len(data)
            tail = chunk[-(len(_MAGIC) - 1) :]
    except OSError:
        pass
    return ""


def _at(fd: int, offset: int) -> str:
    head = os.pread(fd, _HEADER + 1 + 127, offset)
    # One byte of length is enough: a version has fewer than 128.
    if len(head) <= _HEADER or not head[15] & _INLINE or head[_HEADER] > 127:
        return ""
    text = head[_HEADER + 1 : _HEADER + 1 + head[_HEADER]]
    match = _VERSION.match(text)
    return match[1].decode("ascii") if match else ""

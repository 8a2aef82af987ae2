"""A parser of untrusted JSON: all that can be wrong with a text is one kind of error.

Used on both sides of a sandbox, so it runs on Python 3.8 and imports the standard library only. How
large a text may be, and what has to be in it, is the caller's to check.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MAX_DETAIL = 200
# Tests inside may replace these in their module, and commands are read all the same.
_loads, _Decoder = json.loads, json.JSONDecoder


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def loads(text: str | bytes, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of a JSON text; ``pairs`` makes the objects of it, from their keys and values.

    Bytes are UTF-8, in which alone `has_more_values` counts right. They may hold lone surrogates.
    Raises `ValueError`, in at most 200 printable characters, for text that is not JSON. Numbers
    that only Python takes for JSON are refused too. So is what is nested deeper than the parser
    goes, or has more digits than `int` takes.
    """
    try:
        if not isinstance(text, str):
            text = text.decode("utf-8", "surrogatepass")
        return _loads(text, cls=_Decoder, object_pairs_hook=pairs, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        detail = str(error).encode("ascii", "backslashreplace").decode()
        raise ValueError(detail[:_MAX_DETAIL]) from None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys all differ. Raises `ValueError`: of two, each reader takes another."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice in one object")
    return found


def has_more_values(text: bytes, most: int) -> bool:
    """Whether there are more than ``most`` values in a text, before anything is made of them.

    They are counted by what stands between them and not in a string. The smallest take 3 bytes of
    JSON each, and more than 20 times that as values.
    """
    if len(text) <= most or _between(text) <= most:
        return False
    bare = without_strings(text, most)
    return bare is None or _between(bare) > most


def without_strings(text: bytes, most: int) -> bytes | None:
    """A JSON text without its strings; None if it has more than ``most`` strings."""
    # What follows a backslash outside of a string does not matter: no JSON goes on there.
    bare = text.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > 2 * most:
        return None
    return b"".join(bare.split(b'"')[::2])


def _between(text: bytes) -> int:
    return sum(map(text.count, (b"[", b"{", b",", b":")))

"""The answers and the digest of a runsc, kept in the user's cache folder until the next boot.

The key is the whole state of the file, its ctime included, which no user can set. A file that has
changed within the last seconds is asked each time. Its next change could have the same ctime: a
clock tick of the kernel is up to 10 ms long.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_gvisor.errors import LaunchError
from pytest_gvisor.guest.checked_json import loads
from pytest_gvisor.runsc.features import QUESTIONS
from pytest_gvisor.sessions import boot_notes, places, private
from pytest_gvisor.sessions.boot_notes import Note

if TYPE_CHECKING:
    from pytest_gvisor.runsc.locate import Identity

_SETTLED = 2_000_000_000
"""Nanoseconds since the last change of a file."""

_known: dict[Identity, Answers] = {}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The hexadecimal SHA-256 of a binary, and its answer to each question of `features`."""

    sha256: str
    texts: tuple[str, ...]


def recall(identity: Identity) -> Answers | None:
    """Return the answers that this process or an earlier one got, or None."""
    if identity not in _known:
        text = None
        with contextlib.suppress(LaunchError):
            text = _note(identity).read()
        found = None if text is None else _decode(text)
        if found is None:
            return None
        _known[identity] = found
    return _known[identity]


def keep(identity: Identity, answers: Answers) -> None:
    """Keep the answers of a binary that was unchanged after them."""
    _known[identity] = answers
    if time.time_ns() - identity.ctime_ns > _SETTLED:
        note = _note(identity)
        with contextlib.suppress(LaunchError, OSError):
            private.make_above(note.folder)
            note.write(json.dumps([answers.sha256, *answers.texts]))
            boot_notes.sweep([note.folder])


def _decode(text: str) -> Answers | None:
    with contextlib.suppress(ValueError, TypeError):
        digest, *texts = loads(text)
        texts_only = all(isinstance(part, str) for part in (digest, *texts))
        if texts_only and len(digest) == 64 and len(texts) == len(QUESTIONS):
            return Answers(sha256=digest, texts=tuple(texts))
    return None


def folder() -> str:
    """Return the folder for answers."""
    return places.caches("answers")


def _note(identity: Identity) -> Note:
    text = repr((tuple(identity), QUESTIONS))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Note(folder=folder(), kind="a", digest=digest, name="runsc")

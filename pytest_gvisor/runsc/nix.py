"""The rules for Nix: a store that nobody may write, and runsc started by a shell script.

Pure: bytes, strings and modes in, answers out. Nothing here opens or starts anything; a wrapper is
read and never executed.
"""

from __future__ import annotations

import os
import posixpath
import re

from pytest_gvisor.programs.paths import below

STORE = "/nix/store"
WRAPPER_LIMIT = 4096

# nixpkgs' makeWrapper ends its script with
#     exec -a "$0" "/nix/store/<hash>-gvisor/bin/.runsc-wrapped"  "$@"
# Only characters that a shell takes literally, quoted or bare: what is read here is then what the
# shell would have started.
_EXEC = re.compile(
    rb"""exec [ \t]*(?:-a[ \t]+(?:"[^"]*"|'[^']*'|[^\s"']+)[ \t]+)?"""
    rb"""(?P<quote>["']?)(?P<path>/[A-Za-z0-9/._+=@,:%-]*)(?P=quote)(?=[ \t]|$)"""
)


class NotAWrapper(ValueError):
    """Raised for a script that names no runsc to start; the message is the reason."""


def named_binary(script: bytes) -> str:
    """Return the path in the last `exec` of the wrapper ``script``, absolute, not canonical.

    ``script`` is the file's first ``WRAPPER_LIMIT + 1`` bytes or all of it. Raises `NotAWrapper`.
    """
    if not script.startswith(b"#!"):
        raise NotAWrapper("it is not a script")
    if len(script) > WRAPPER_LIMIT:
        raise NotAWrapper(f"it is a script of more than {WRAPPER_LIMIT} bytes, not a wrapper")
    lines = [line for line in script.split(b"\n") if line.startswith(b"exec ")]
    if not lines:
        raise NotAWrapper("it is a script without a line that starts runsc by `exec`")
    match = _EXEC.match(lines[-1])
    if match is None or b"runsc" not in match["path"]:
        raise NotAWrapper("it is a script whose last `exec` does not name runsc by a plain path")
    return os.fsdecode(match["path"])


def may_name(wrapper: str, target: str, store: str = STORE) -> bool:
    """Whether the wrapper may hand over to ``target``; both are canonical paths.

    They must share the store or the folder, and the target must be called runsc. The store also
    holds every shell and interpreter of the machine.
    """
    together = below(wrapper, store) and below(target, store)
    beside = posixpath.dirname(wrapper) == posixpath.dirname(target)
    return (together or beside) and "runsc" in posixpath.basename(target)

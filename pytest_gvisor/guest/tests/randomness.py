"""The random generators of the pytest inside: a copy of a saved sandbox draws its own numbers.

A generator that a plugin has seeded stays as it is, for tests that are the same each time. Used by
gate.py alone.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any, BinaryIO

from pytest_gvisor.guest.tests import program

_OPENSSL = b"OpenSSL NIST SP 800-90A DRBG"
"""A text in each OpenSSL since 1.1.1, which its generators begin with."""

_OTHERS = (
    b"\0OPENSSL_ia32cap\0", b"\0OPENSSL_armcap\0", b"/fipsmodule/",
    b"could not initialize ThreadRng", b"could not initialize thread_rng",
)  # fmt: skip
"""Texts in libraries with BoringSSL or AWS-LC, and with the generator of Rust's ``rand``."""

_FRESH = 48
"""Bytes that a generator of OpenSSL takes for a new seed."""


class Randomness:
    """The generators of this process. Made before it imports a plugin."""

    def __init__(self) -> None:
        """Note from here on which generators of `random` have a seed that a plugin has chosen."""
        import random  # noqa: PLC0415 -- sys.path is the host's only now

        shared: Any = random.random.__self__  # type: ignore[attr-defined]
        self._unseeded = weakref.WeakValueDictionary({id(shared): shared})
        self._openssl: list[Callable[[bytes], None]] = []
        self._watched: list[tuple[Any, str, Any, Any]] = []
        for name in ("seed", "setstate"):
            original = getattr(random.Random, name)
            watched = self._watch(original)
            self._replace(random.Random, name, watched)
            self._replace(random, name, types.MethodType(watched, shared))

    def _watch(self, original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        def watched(generator: Any, *args: Any, **named: Any) -> None:
            original(generator, *args, **named)
            if (args[0] if args else named.get("a", named.get("state"))) is None:
                self._unseeded[id(generator)] = generator
            else:
                self._unseeded.pop(id(generator), None)

        return watched

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        self._watched.append((owner, name, getattr(owner, name), value))
        setattr(owner, name, value)

    def end_watch(self) -> None:
        """Note nothing any more: what follows is the project's."""
        for owner, name, original, watched in self._watched:
            if getattr(owner, name) is watched:
                setattr(owner, name, original)

    def prepare(self) -> str:
        """Prepare for a save; return what would repeat its numbers in each copy, if there is any.

        This is a library whose generator nobody can reach, or a process that a plugin has started.
        """
        own = {"1", str(os.getpid())}
        if others := {name for name in os.listdir("/proc") if name.isdigit()} - own:
            return f"process {min(others)}"
        with open("/proc/self/maps") as lines:
            parts = [line.rstrip("\n").split(None, 5) for line in lines]
        for file in sorted({part[5] for part in parts if "x" in part[1] and "/" in part[-1]}):
            with contextlib.suppress(OSError), open(file, "rb") as opened:
                found = _texts(opened)
                if _OPENSSL in found and (add := _adder(file)) is not None:
                    add(os.urandom(_FRESH))  # the first time takes the longest
                    self._openssl.append(add)
                elif found:
                    return file
        return ""

    def renew(self) -> None:
        """Draw anew what was the same in each copy until now."""
        for generator in list(self._unseeded.values()):
            generator.seed()
        for add in self._openssl:
            add(os.urandom(_FRESH))
        numbers: Any = sys.modules.get("numpy.random")
        with contextlib.suppress(AttributeError):  # not loaded, or a numpy before 1.25
            # numpy forgets this when somebody gives a seed.
            if numbers.get_bit_generator().seed_seq is not None:
                numbers.seed()
        if (names := sys.modules.get("tempfile")) is not None:
            vars(names)["_name_sequence"] = None


def _texts(library: BinaryIO) -> set[bytes]:
    """Return the texts in a library that tell of a generator of its own."""
    with mmap.mmap(library.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # Each such library names it, for kernels without getrandom(2); few others do.
        if data.find(b"/dev/urandom") < 0:
            return set()
        return {text for text in (_OPENSSL, *_OTHERS) if data.find(text) >= 0}


def _adder(file: str) -> Callable[[bytes], None] | None:
    """Return RAND_add(3) of the OpenSSL in a library; None if it is out of reach."""
    linux = program.beside("../../programs/linux")
    with contextlib.suppress(AttributeError, OSError):
        found: Callable[[bytes], None] = linux.openssl_adder(file)
        return found
    # A Python that has OpenSSL within itself.
    if os.path.basename(file).startswith(("python", "libpython")):
        import ssl  # noqa: PLC0415

        return lambda data: ssl.RAND_add(data, len(data))
    return None

"""`Platform`: the name of one of gVisor's platforms. An open set: releases change it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar, Self

_FORM = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_TAKEN = frozenset({"auto", "all", "native"})
"""Words of ``--gvisor-platform`` that name no platform of gVisor's."""

_interned: dict[str, Platform] = {}


class _Known(type):
    """A metaclass that makes `Platform` iterable, like an enum."""

    def __iter__(cls) -> Iterator[Platform]:
        return iter((Platform.SYSTRAP, Platform.KVM, Platform.PTRACE))


class Platform(str, metaclass=_Known):
    """A way of gVisor's sentry to run application code: a text, with one object for each name.

    ``SYSTRAP``, ``KVM`` and ``PTRACE`` are known, and are what iteration and ``all`` give. Any
    other name that a binary lists (``runsc help platforms``) is a platform too. Raises
    `ValueError` for a text that is not of the form of a name.
    Source: https://gvisor.dev/docs/architecture_guide/platforms/
    """

    __slots__ = ()

    SYSTRAP: ClassVar[Platform]
    KVM: ClassVar[Platform]
    PTRACE: ClassVar[Platform]

    def __new__(cls, value: object) -> Self:
        """Return the platform of this name, the same object each time."""
        if not isinstance(value, str) or not _FORM.fullmatch(value) or value in _TAKEN:
            raise ValueError(f"{value!r} is not a valid {cls.__name__}")
        text = str(value)
        found = _interned.get(text)
        if found is None:
            # Two threads may come here at once: both get the object that was stored first.
            found = _interned.setdefault(text, super().__new__(cls, text))
        assert isinstance(found, cls)
        return found

    @property
    def value(self) -> str:
        """The name as plain text."""
        return str(self)

    @property
    def name(self) -> str:
        """The name in capitals, an attribute of the class."""
        return self.value.upper()

    @property
    def is_known(self) -> bool:
        """Whether this version knows the platform: no binary has to list it then."""
        return self in Platform


Platform.SYSTRAP = Platform("systrap")
Platform.KVM = Platform("kvm")
Platform.PTRACE = Platform("ptrace")

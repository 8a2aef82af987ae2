"""The plan of a test inside. `placement` keeps and finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pytest_gvisor.settings import Platform


class Plan(NamedTuple):
    """The plan of a test inside."""

    inner: str
    """Its node id in the pytest inside."""

    platform: Platform | None
    """The platform that was asked for; None where the binary decides (``auto``)."""

    fresh: bool
    """Whether it wants a sandbox of its own."""

    release: str | None = None
    """The label of its runsc; None where there are not several."""

    user: str = "caller"
    """Who it runs as, in the form of inside/users.py."""

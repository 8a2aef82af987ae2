"""The settings that a call takes as keyword arguments, for type checkers and editors.

`setting_table` declares the same settings; tests/unit/test_settings.py holds the two equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from pytest_gvisor.settings import Network, Platform, Rootless


class CallSettings(TypedDict, total=False):
    """The settings of `Gvisor.run`, `Gvisor.run_bundle` and `Gvisor.sandbox`."""

    network: Network | str
    netns: str | os.PathLike[str] | None
    rootless: Rootless | str
    image: str | os.PathLike[str] | None
    project: bool
    memory: int | str | None
    pids: int | None
    cpus: float | None
    shm: int | str | None
    nofile: int | None
    max_output: int
    debug: bool


class SessionSettings(CallSettings, total=False):
    """The settings of `session`."""

    platform: Platform | str | Sequence[str]
    runsc: str | os.PathLike[str] | None
    timeout: float

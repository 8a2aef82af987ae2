"""The end of the pytest inside: why its session stops, and what nobody would hear of.

Used by worker.py alone; imports pytest only after ``sys.path`` is the host's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


def words(error: BaseException) -> dict[str, Any]:
    """Return text and status of `pytest.exit`; a KeyboardInterrupt has neither."""
    text, status = getattr(error, "msg", None), getattr(error, "returncode", None)
    return {"text": None if text is None else str(text), "status": status}


def drop_summaries(config: pytest.Config) -> None:
    """Drop the summaries of plugins, which the host's pytest writes.

    Since 9.2 pytest asks for them even with ``no_summary``, and that of hypothesis imports it all.
    """
    hook = config.hook.pytest_terminal_summary
    for implementation in hook.get_hookimpls():
        hook._remove_plugin(implementation.plugin)

"""Hooks that other plugins and conftest.py files may implement.

They are called for the sandboxes of ``gvisor`` and ``gvisor_sandbox``. Those of
``gvisor_sandboxes`` and of tests inside belong to no one test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_gvisor.base.completed import Completed
    from pytest_gvisor.base.errors import GvisorError


def __dir__() -> list[str]:
    """Name the hooks alone: pytest looks at each name."""
    return [name for name in globals() if name.startswith("pytest_")]


@pytest.hookspec
def pytest_gvisor_modify_spec(item: pytest.Item, config_json: dict[str, Any]) -> None:
    """Change the content of config.json in place, before it is validated and written.

    ``config_json`` is the OCI runtime specification as JSON data. The result is validated like
    any bundle, and may be an `InvalidBundle`.
    """


@pytest.hookspec
def pytest_gvisor_runsc_args(item: pytest.Item) -> list[str] | None:
    """Return more global flags for runsc, each as ``--flag`` or ``--flag=value``.

    If the hook returns a flag that this runsc does not have, that is a `UsageError`. So is a flag
    for which there is a setting, such as ``--network``.
    """


@pytest.hookspec
def pytest_gvisor_run_finished(
    item: pytest.Item, completed: Completed | None, error: GvisorError | None
) -> None:
    """Called after each run, when its sandbox is gone: with its result, its error, or both.

    A time-out and a crash have both: the error, and what the workload had written until then. Of a
    warm sandbox it is called once, at its end. ``check=True`` makes no error here.
    """

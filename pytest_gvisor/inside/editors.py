"""Plugins that report to an editor, through a pipe or standard output of the host: they stay here.

They see the reports of tests inside like all others. Does no input or output.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

# VS Code gives -p vscode_pytest. PyCharm hands its plugin over as a module; who has
# teamcity-messages installed has the same plugin by its entry point.
_PLUGINS: Final = frozenset({
    "vscode_pytest", "pytest-teamcity", "pytest_teamcity", "teamcity.pytest_plugin",
})  # fmt: skip

SWITCHED_OFF: Final[dict[str, Any]] = {"teamcity": 0, "no_teamcity": 1}
"""Options with the values that switch such plugins off inside."""

VARIABLES: Final = (
    "TEST_RUN_PIPE", "RUN_TEST_IDS_PIPE", "VSCODE_*", "PYCHARM_*", "PYDEVD_*", "DEBUGPY_*",
    "TEAMCITY_*", "_JB_*", "JB_*", "JETBRAINS_*", "IDE_PROJECT_ROOTS",
)  # fmt: skip
"""Names of variables that editors set for their plugins."""


def without(plugins: Iterable[str]) -> list[str]:
    """Return the names of plugins for the pytest inside."""
    return [name for name in plugins if name not in _PLUGINS]

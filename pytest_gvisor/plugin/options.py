"""The options' declarations, and the values that users have written for them.

Light: every session imports this. What is written is read by `precedence`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import pytest

from pytest_gvisor.setting_table import SETTINGS, Kind, Setting

_INI: Mapping[Kind, Literal["args", "bool", "float"]] = {
    "platforms": "args", "reports": "args", "flag": "bool", "seconds": "float",
}  # fmt: skip
"""The types of ini keys; the other kinds are a ``string``."""

_ACTIONS: Mapping[Kind, str] = {
    "platforms": "append", "reports": "append", "binary": "append", "flag": "store_true",
}  # fmt: skip
"""The actions of argparse; the other kinds are stored."""

_GROUP = "workloads under gVisor (precedence: marker, command line, environment, ini file, default)"


def add_options(parser: pytest.Parser) -> None:
    """Declare the options and ini keys."""
    group = parser.getgroup("gvisor", _GROUP)
    for setting in SETTINGS:
        kind, sources = setting.kind, f" Environment: {setting.variable}."
        if "ini" in setting.sources:
            sources += f" Ini: {setting.key}."
            parser.addini(setting.key, setting.help, type=_INI.get(kind, "string"), default=None)
        if "command line" in setting.sources:
            metavar = {} if setting.metavar is None else {"metavar": setting.metavar}
            group.addoption(
                setting.option,
                action=_ACTIONS.get(kind, "store"),
                dest=setting.key,
                default=None,
                help=setting.help + sources,
                **metavar,
            )
    parser.addini(
        "gvisor_project_hidden",
        "names, or globs, that gvisor_project leaves out beside its list; !NAME takes one off it",
        type="linelist",
        default=[],
    )


class Written(NamedTuple):
    """A setting that a user has written, with its source."""

    value: Any
    source: str


def written(config: pytest.Config) -> dict[str, Written]:
    """Return the written settings by field, each from the source with the highest precedence.

    An environment variable or ini key that is empty says nothing. Raises `pytest.UsageError` for
    an ini key of a wrong type.
    """
    found: dict[str, Written] = {}
    for setting in SETTINGS:
        value, source = _written(config, setting)
        if source:
            found[setting.name] = Written(value=value, source=source)
    return found


def _written(config: pytest.Config, setting: Setting) -> tuple[Any, str]:
    """Return the value with the highest precedence, and its source; ``""`` if there is none."""
    if "command line" in setting.sources:
        value = config.getoption(setting.key, None)
        if value is not None:
            return value, setting.option
    if "environment" in setting.sources and (value := os.environ.get(setting.variable)):
        return value, setting.variable
    if "ini" in setting.sources and (value := _ini(config, setting)) not in (None, "", []):
        return value, f"{setting.key} in {config.inipath}"
    return None, ""


def _ini(config: pytest.Config, setting: Setting) -> Any:
    """Return the value in the ini file; None if it has none."""
    try:
        return config.getini(setting.key)
    except (TypeError, ValueError, pytest.UsageError) as error:
        text = f"pytest-gvisor: {setting.key} in {config.inipath}: {error}"
        raise pytest.UsageError(text) from error

"""The options' declarations, and the values that users have written for them.

Light: every session imports this. What is written is read by `precedence`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any, Literal, NoReturn

import pytest

from pytest_gvisor.base import removed
from pytest_gvisor.base.setting_table import SETTINGS, TRACES, Kind, Setting, unknown_variable
from pytest_gvisor.plugin.placement import FIELDS, GIVEN, RETURNS

_INI: Mapping[Kind, Literal["args", "bool", "float"]] = {
    "platforms": "args", "reports": "args", "acts": "args", "flag": "bool", "seconds": "float",
}  # fmt: skip
"""The types of ini keys; the other kinds are a ``string``."""

_ACTIONS: Mapping[Kind, str] = {
    "platforms": "append", "reports": "append", "binary": "append", "flag": "store_true",
    "trace": "store_true",
}  # fmt: skip
"""The actions of argparse; the other kinds are stored."""

_FLAG: Mapping[str, Any] = {"action": "store_true", "default": False}
_MANY: Mapping[str, Any] = {"action": "append", "default": []}
_OPTIONS_INSIDE: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "--in-gvisor": (_FLAG, ("run every collected test inside gVisor, apart from those that use a "
        "sandbox themselves. Ini: in_gvisor.")),
    "--no-gvisor": (_FLAG, "run the tests that would run inside on the host, with the same ids."),
    "--gvisor-isolation": ({"metavar": "UNIT"},
        "the lifetime of a sandbox for tests inside: session (default), module, or test."),
    "--gvisor-env": ({"metavar": "NAME[=VALUE]", **_MANY}, ("a variable for tests inside, which "
        "otherwise get an allow-list; may be repeated. A glob names several, and !glob leaves some "
        "out. Ini: gvisor_env.")),
    "--gvisor-user": ({"metavar": "USER"},
        "the user of tests inside: caller (default), root, or UID[:GID]. Ini: gvisor_user."),
    "--gvisor-writable": ({"metavar": "PATH", **_MANY},
        "a folder of the host that writes of tests inside go through to; may be repeated."),
    "--gvisor-readable": ({"metavar": "PATH", **_MANY}, ("a file or folder of the host that tests "
        "inside see, read-only; may be repeated, and may be a glob. Names in a home folder that "
        "begin with a dot stay hidden. Ini: gvisor_readable.")),
}  # fmt: skip
"""The options of tests inside, with what argparse does with them, and their help."""
_MORE_KEYS: Mapping[str, tuple[Literal["args", "bool", "linelist", "string"], str]] = {
    "gvisor_project_hidden": ("linelist", ("names, or globs, that gvisor_project leaves out beside "
        "its list; !NAME takes one off it")),
    "gvisor_readable": ("linelist", ("files and folders that tests inside see, one a line, "
        "relative to the ini file")),
    "gvisor_env": ("linelist", ("environment variables for tests inside, one a line, as "
        "--gvisor-env has them")),
    "gvisor_user": ("string", "the user of tests inside, as --gvisor-user has it"),
    RETURNS: ("linelist", ("files of tests inside that come back to the host: paths or globs, "
        "below rootdir or absolute, one a line")),
    "in_gvisor": ("bool", "run every test inside gVisor"),
    FIELDS: ("args", ("attributes of reports that come from tests inside as plain data, for hooks "
        "of the project's own")),
}  # fmt: skip
"""The ini keys of tests inside, and of workloads' projects, with their types and help."""
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
        for word in TRACES if kind == "trace" else ():
            # An option each: one that may have a value would take a test's path for it.
            how = {"action": "store_const", "const": word, "dest": setting.key}
            group.addoption(f"{setting.option}={word}", help=argparse.SUPPRESS, **how)
    for option, (given, text) in _OPTIONS_INSIDE.items():
        group.addoption(option, help=text, **given)
    for key, (kind_of_key, text) in _MORE_KEYS.items():
        parser.addini(key, text, type=kind_of_key)
    for name, instead in removed.SETTINGS.items():
        parser.addini(f"gvisor_{name}", f"removed. {instead}")
        group.addoption(f"--gvisor-{name}", action=_Removed, nargs="?", help=argparse.SUPPRESS)


class _Removed(argparse.Action):
    """An option that is no more."""

    def __call__(self, *_args: object, **_more: object) -> NoReturn:
        """Raise `pytest.UsageError`."""
        _refuse(self.option_strings[0], self.dest.removeprefix("gvisor_"))


def refuse_unknown(config: pytest.Config) -> None:
    """Raise `pytest.UsageError` for a variable that is not known, or an ini key that is no more."""
    if wrong := unknown_variable(os.environ):
        raise pytest.UsageError(f"pytest-gvisor: {wrong}")
    for name in removed.SETTINGS:
        variable, key = f"PYTEST_GVISOR_{name.upper()}", f"gvisor_{name}"
        if os.environ.get(variable):
            _refuse(variable, name)
        if config.getini(key):
            _refuse(f"{key} in {config.inipath}", name)


def _refuse(spelling: str, name: str) -> NoReturn:
    raise pytest.UsageError(f"pytest-gvisor: {spelling} is removed. {removed.SETTINGS[name]}")


def written(config: pytest.Config) -> dict[str, tuple[Any, str]]:
    """Return the written settings by field: the value, and the source.

    Of several sources it is the one with the highest precedence.
    An environment variable or ini key that is empty says nothing. Raises `pytest.UsageError` for
    an ini key of a wrong type.
    """
    found: dict[str, tuple[Any, str]] = {}
    for setting in SETTINGS:
        value, source = _written(config, setting)
        if source:
            found[setting.name] = value, source
    return found


def _written(config: pytest.Config, setting: Setting) -> tuple[Any, str]:
    """Return the value with the highest precedence, and its source; ``""`` if there is none."""
    sources, key = setting.sources, setting.key
    if "command line" in sources:
        value = config.getoption(key, None)
        if value is not None:
            return value, setting.option
    if "environment" in sources and (value := os.environ.get(setting.variable)):
        return value, setting.variable
    if "ini" in sources and (value := _ini(config, key)) not in (None, "", []):
        return value, _place(config, key)
    # Neither its environment nor an ini file with its ``addopts`` has to be on a worker's machine.
    value = getattr(config, "workerinput", {}).get(GIVEN, {}).get(setting.name)
    return value, "" if value is None else f"{key} of the controller"


def _place(config: pytest.Config, key: str) -> str:
    """Return an ini key with its file, or the option that sets it where there is no file."""
    return f"{key} in {config.inipath}" if config.inipath else f"-o {key}"


def _ini(config: pytest.Config, key: str) -> Any:
    """Return the value in the ini file; None if it has none."""
    try:
        return config.getini(key)
    except (TypeError, ValueError, pytest.UsageError) as error:
        raise pytest.UsageError(f"pytest-gvisor: {_place(config, key)}: {error}") from error

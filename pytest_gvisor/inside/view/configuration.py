"""The configuration of the pytest inside: the host's, with some changes.

The options travel by the parser's own table (`vars(config.option)`), not by guessing at an argv.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import math
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest

from pytest_gvisor.base.settings import Network, Settings
from pytest_gvisor.inside.view.environment import without_editors
from pytest_gvisor.plugin.placement import deselected_key, functions
from pytest_gvisor.programs import proc

# What is the host's business alone, with the value that switches it off inside: which tests run,
# when to stop, where results are written, how many processes there are.
_SWITCHED_OFF: dict[str, Any] = {
    **dict.fromkeys((
        "basetemp", "benchmark_autosave", "benchmark_compare_fail", "benchmark_json",
        "benchmark_save", "cacheshow", "deselect", "durations", "gvisor_debug", "gvisor_platform",
        "gvisor_report", "gvisor_strict", "gvisor_user", "htmlpath", "json_report_file",
        "maxprocesses", "numprocesses", "pastebin", "report_log", "splits", "xmlpath",
    )),
    **dict.fromkeys((
        "cacheclear", "collectonly", "distload", "exitfirst", "fail_on_flaky", "failedfirst",
        "in_gvisor", "lf", "looponfail", "newfirst", "stepwise", "stepwise_reset", "stepwise_skip",
        "store_durations",
    ), False),
    **{name: [] for name in (
        "benchmark_compare", "benchmark_cprofile_dump", "benchmark_histogram", "plugins", "tx",
    )},
    "benchmark_netrc": "", "benchmark_storage": "file://./.benchmarks", "dist": "no",
    "log_file_mode": "w",
    # Of plugins that report to an editor, which stay on the host.
    "teamcity": 0, "no_teamcity": 1,
}  # fmt: skip


# The settings of coverage's section [run] that decide what is measured, and how.
_MEASURING = (
    "branch", "concurrency", "context", "core", "cover_pylib", "disable_warnings",
    "dynamic_context", "include", "omit", "patch", "plugins", "relative_files", "sigterm", "source",
    "source_dirs", "source_pkgs", "timid",
)  # fmt: skip


def travelling(config: pytest.Config) -> dict[str, Any]:
    """Return the options for the pytest inside: JSON data, without options for the host."""
    options = vars(config.option)
    carried = {name: value for name, value in _SWITCHED_OFF.items() if name in options}
    for name, value in _own(config):
        # Of what `pickled` has, a plain form too: plugins and the parser read it before.
        with contextlib.suppress(TypeError):  # an object of a plugin's own
            carried[name] = _plain(value)
    if "splits" in carried:
        carried["group"] = None  # pytest-split's, which has divided the tests here
    carried["rootdir"] = str(config.rootpath)
    carried["inifilename"] = str(config.inipath or os.devnull)
    if config.inipath is None and not config.option.confcutdir:
        # Else the folder of that file would be the topmost with a conftest.py.
        carried["confcutdir"] = str(config.rootpath)
    return carried


def pickled(config: pytest.Config) -> dict[str, str]:
    """Return the options whose values JSON would change, such as an enum of a conftest.py's.

    One of an object that cannot be pickled is left out.
    """
    found = {}
    for name, value in _own(config):
        if not _is_data(value) and not _is_mark(config, name, value):
            data = io.BytesIO()
            with contextlib.suppress(Exception):  # of the object's own methods
                _Pickler(data, config.pluginmanager.get_plugins()).dump(value)
                found[name] = base64.b64encode(data.getvalue()).decode()
    return found


class _Pickler(pickle.Pickler):
    """Names a type of a conftest.py by the file: several of these have one name as modules."""

    def __init__(self, to: io.BytesIO, plugins: Iterable[Any]) -> None:
        super().__init__(to)
        self._modules = [one for one in plugins if isinstance(one, ModuleType)]

    def persistent_id(self, value: Any) -> tuple[str, str] | None:
        if isinstance(value, type):
            name = value.__name__
            for module in self._modules:
                if (vars(module).get(name), module.__name__) == (value, value.__module__):
                    return str(module.__file__), name
        return None


def _own(config: pytest.Config) -> Iterator[tuple[str, Any]]:
    for name, value in vars(config.option).items():
        # See coverage() and arguments().
        if name not in _SWITCHED_OFF and name not in ("cov_source", "no_cov", "file_or_dir"):
            yield name, value


def _is_mark(config: pytest.Config, name: str, value: object) -> bool:
    """Whether it is a default such as ``object()``, which is equal to no copy."""
    kind = type(value)
    by_identity = (kind.__eq__, kind.__reduce_ex__) == (object.__eq__, object.__reduce_ex__)
    return by_identity and value is config._parser.optparser.get_default(name)


def _is_data(value: object) -> bool:
    """Whether JSON gives back the same, of the same type."""
    if type(value) is list:
        return all(map(_is_data, value))
    if type(value) is dict:
        return all(type(key) is str and _is_data(part) for key, part in value.items())
    return (
        value is None
        or type(value) in (bool, int, str)
        or (type(value) is float and math.isfinite(value))
    )


def read_as(config: pytest.Config) -> dict[str, Any]:
    """Return the parts of the configuration that tests read as here, and that others stand for."""
    names = (
        "basetemp", "confcutdir", "file_or_dir", "gvisor_platform", "gvisor_strict", "gvisor_user",
        "in_gvisor", "inifilename", "rootdir",
    )  # fmt: skip
    return {
        "arguments": [*map(str, config.invocation_params.args)],
        "args_source": config.args_source.name,
        "has_ini": config.inipath is not None,
        "options": {name: _plain(getattr(config.option, name, None)) for name in names},
    }


def _plain(value: Any) -> Any:
    """Return JSON data. Raises `TypeError` for what has no such form."""
    if isinstance(value, list | tuple | set):
        return [_plain(part) for part in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError("JSON has no such number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} in the place of plain data")


def arguments(config: pytest.Config, items: Iterable[pytest.Item] | None) -> list[str]:
    """Return the command line inside: plugins, which pytest loads before options, and `named`."""
    given = [*config.option.plugins, *importable(config.invocation_params.plugins or ())]
    plugins = [part for name in without_editors(given) for part in ("-p", name)]
    return [*plugins, *named(config, items)]


def importable(plugins: Iterable[object]) -> list[str]:
    """Return the names of modules among the plugins that `pytest.main` was called with."""
    return [
        one if isinstance(one, str) else one.__name__
        for one in plugins
        if isinstance(one, str) or (isinstance(one, ModuleType) and _is_found(one))
    ]


def _is_found(module: ModuleType) -> bool:
    """Whether an import of the name finds this module, and not one that a program has made.

    The main module has no spec, or with ``python -m`` one of another name.
    """
    spec, package = module.__spec__, sys.modules.get(module.__name__.rpartition(".")[0])
    if spec is None or spec.name != module.__name__:
        return False
    way = spec.name, getattr(package, "__path__", None)
    with contextlib.suppress(ImportError, ValueError):
        found = next((made for one in sys.meta_path if (made := one.find_spec(*way))), None)
        return found is not None and found.origin == spec.origin
    return False


def named(config: pytest.Config, items: Iterable[pytest.Item] | None) -> list[str]:
    """Return the files and folders that the user has named.

    What the user wrote decides node ids, where files lie outside of rootdir. Files that none of
    ``items`` needs are left out: pytest would collect each of them. None stands for tests that need
    all.
    """
    if items is None:
        return [*config.args]
    needed = {os.path.realpath(path) for path in files(items)}
    here = str(config.invocation_params.dir)
    return [arg for arg in config.args if not _is_other_file(arg, here, needed)]


def _is_other_file(argument: str, here: str, needed: Collection[str]) -> bool:
    path = os.path.join(here, argument.partition("[")[0].partition("::")[0])
    return os.path.isfile(path) and os.path.realpath(path) not in needed


def files(items: Iterable[pytest.Item]) -> list[str]:
    """Return the files from which pytest collects these items.

    An item's own path may be another one's: that of its data, for instance.
    """
    file: type[Any] = pytest.File  # abstract, which mypy takes for no argument
    found = ((item.getparent(file) or item).path for item in items)
    return [str(path) for path in dict.fromkeys(found)]


def measuring(config: pytest.Config) -> Any:
    """Return the `Coverage` of pytest-cov in this session; None if it does not measure."""
    controller = getattr(config.pluginmanager.get_plugin("_cov"), "cov_controller", None)
    return None if controller is None else controller.cov


def data_file(cov: Any) -> str:
    """Return the path of the data file. pytest-cov combines all beside it that begin like it."""
    return os.path.abspath(cov.get_option("run:data_file") or ".coverage")


def data_folder(config: pytest.Config) -> str:
    """Return the folder of the data file; empty if pytest-cov does not measure.

    pytest-cov opens each file there that begins like it as an SQLite database.
    """
    cov = measuring(config)
    return "" if cov is None else os.path.dirname(data_file(cov))


def coverage(config: pytest.Config) -> dict[str, Any] | None:
    """Return the settings of coverage if pytest-cov measures on the host, else None.

    They are the ones in effect: an option, a variable and each of coverage's files can set one. The
    file goes too. Plugins of coverage, and processes that tests start, read it themselves.
    """
    cov = measuring(config)
    if cov is None:
        return None
    unknown = sys.modules["coverage"].CoverageException  # pytest-cov has imported it
    settings = {}
    for name in _MEASURING:
        with contextlib.suppress(unknown):  # a release that does not have it
            settings[name] = _plain(cov.get_option(f"run:{name}"))
    return {
        "settings": settings,
        "data_file": data_file(cov),
        "contexts": getattr(config.option, "cov_context", None) == "test",
        "config": dict(cov.sys_info())["config_file"],
    }


@functools.cache
def umask() -> int:
    """Return the umask as it was at first: a conftest.py that changes it does so inside too."""
    return int(proc.status_of()["Umask"], 8)


def search_path() -> list[str]:
    """Return ``sys.path`` for the pytest inside: absolute, existing entries only."""
    return [os.path.abspath(path or os.curdir) for path in sys.path]


def unwanted(items: Sequence[pytest.Item]) -> list[str]:
    """Return the functions of which the host has deselected each test: ``file.py::Class::name``.

    The pytest inside makes no tests of them. One may have thousands, by its parameters.
    """
    noted = items[0].config.stash.get(deselected_key, set()) if items else set()
    return sorted(noted.difference(functions(items[0].session.items))) if noted else []


def command(script: str) -> list[str]:
    """Return the command line that runs ``script`` with this interpreter and its flags."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    # Those that multiprocessing passes on are not all.
    written = (
        name if value is True else f"{name}={value}" for name, value in sys._xoptions.items()
    )
    flags += [word for option in written if option not in flags for word in ("-X", option)]
    return [sys.executable, *flags, script]


def program() -> dict[str, Any]:
    """Return what a test can read of the command that started this process."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    return {
        "argv": [*map(str, sys.argv)],
        "orig_argv": [*map(str, sys.orig_argv)],
        "file": _text(getattr(main, "__file__", None)),
        "module": _text(getattr(spec, "name", None)),
    }


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def families(settings: Settings) -> list[str]:
    """Return the families of addresses that ``AI_ADDRCONFIG`` finds here and not in a sandbox.

    With the host's network, or in a named network namespace, there are real addresses.
    """
    if settings.network is Network.HOST or settings.netns:
        return []
    return [family.name for family in (socket.AF_INET, socket.AF_INET6) if _counts(family)]


def _counts(family: socket.AddressFamily) -> bool:
    try:
        # Without a name: nothing is looked up.
        socket.getaddrinfo(None, 1, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
    except OSError:
        return False
    return True

"""The folders of ``--gvisor-writable``, in which tests inside write to the host.

A test can leave a module, a test, a program or a link there. So the host must not import, collect
or execute what such a folder holds, and follows no link in it. Root may share one that allows no
set-uid programs.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from importlib.machinery import PathFinder

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.escape import escape
from pytest_gvisor.inside.view.configuration import data_folder
from pytest_gvisor.oci import host_paths, packages
from pytest_gvisor.oci.mounts import bind, examine
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.programs import leftovers
from pytest_gvisor.programs.paths import below, within
from pytest_gvisor.sessions import places

_HARMLESS = os.ST_NOSUID | os.ST_NODEV
_REMEDY = (
    "Give it a folder that holds data alone, and that pytest does not collect from: "
    "--gvisor-writable=build/data. By default, the ini key norecursedirs names build."
)
_READ_ALONE = frozenset({
    "deselect", "file_or_dir", "gvisor_readable", "gvisor_writable", "ignore", "ignore_glob",
    "keyword", "markexpr",
})  # fmt: skip
"""Options that name no file for the host to write."""

_MOST_SEARCHED = 1000
"""The folders below one that are looked into for what the host executes."""


def mounts(folders: Iterable[str]) -> list[Mount]:
    """Return the writable mounts of these folders at their own paths. Raises `UsageError`."""
    made = [bind(path, os.path.abspath(path), readonly=False) for path in dict.fromkeys(folders)]
    for mount in made:
        _check_harmless(mount.source)
    return made


def check(config: pytest.Config, items: Sequence[pytest.Item] = ()) -> None:
    """Raise `UsageError` for a folder that tests inside must not write.

    A folder may be missing so far. ``items`` are the tests of the session, once they are known.
    Modules that pytest has imported until then count.
    """
    known: list[str] = []
    for path in config.getoption("gvisor_writable"):
        try:
            folder, missing, reason = examine(path, writable=True, follow=False)
        except UsageError as error:
            raise _refused(path, error.message) from error
        folder = os.path.realpath(path) if missing else folder
        tops = [os.path.realpath(top) for top in _collected(config, items)]
        reason = reason or host_paths.executed(folder) or _held(config, tops, folder)
        if reason := reason or _lies(config, tops, folder):
            raise _refused(path, f"it {reason}")
        if nested := [one for one in known if below(folder, one) or below(one, folder)]:
            raise _refused(path, f"{nested[0]!a} is writable too, and one lies in the other")
        if not missing:
            _check_harmless(folder)
        host_paths.note_writable(folder)
        known.append(folder)


def _refused(path: str, reason: str) -> UsageError:
    return UsageError(f"--gvisor-writable={escape(shlex.quote(path))}: {reason}", next_step=_REMEDY)


def _collected(config: pytest.Config, items: Sequence[pytest.Item]) -> Iterator[str]:
    """Yield the folders that pytest collects from, in this session or in one without arguments."""
    here, root = str(config.invocation_params.dir), str(config.rootpath)
    patterns = [os.path.join(root, path) for path in config.getini("testpaths")]
    tops = [path for pattern in patterns for path in glob.glob(pattern, recursive=True)] or [root]
    tops += [os.path.join(here, argument.partition("::")[0]) for argument in config.args]
    for path in filter(os.path.exists, [*tops, *(str(item.path) for item in items)]):
        yield path if os.path.isdir(path) else os.path.dirname(path)


def _held(config: pytest.Config, tops: Sequence[str], folder: str) -> str:
    """Return what a folder holds that the host imports, collects or executes; else empty."""
    modules = {os.path.dirname(file) for one in [*sys.modules.values()] for file in _files(one)}
    programs = filter(os.path.isabs, os.environ.get("PATH", "").split(os.pathsep))
    kinds = (
        (modules, "from which this pytest has imported"),
        (packages.found(), "a package that the host imports"),
        (tops, "from which pytest collects"),
        (programs, "a folder of PATH"),
        ([str(config.inipath)], "the ini file"),
        (filter(None, [data_folder(config)]), "where pytest-cov reads data: set COVERAGE_FILE"),
        (_outputs(config), "which an option names: the host would write through a test's link"),
    )
    for paths, use in kinds:
        for path in paths:
            if within(os.path.realpath(path), folder):
                return f"holds {path!a}, {use}"
    found = _search(folder, *host_paths.VERSION_CONTROL, host_paths.ENVIRONMENT)
    return f"holds {found!a}, which programs of the host obey" if found else ""


def _outputs(config: pytest.Config) -> Iterator[str]:
    """Yield the paths, among other texts, that options of this session have as values."""
    values = [value for name, value in vars(config.option).items() if name not in _READ_ALONE]
    for key in ("log_file", "cache_dir"):
        with contextlib.suppress(ValueError):  # its plugin is blocked
            values.append(os.path.join(config.rootpath, config.getini(key) or ""))
    while values:
        value = values.pop()
        if isinstance(value, list | tuple | dict):
            values += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str | os.PathLike) and "\0" not in str(value):
            yield os.path.join(config.invocation_params.dir, value)


def _files(module: object) -> Iterator[str]:
    """Yield the absolute paths of a module's file and of its byte code."""
    facts = getattr(module, "__dict__", {})
    found = (facts.get("__file__"), facts.get("__cached__"))
    yield from (file for file in found if isinstance(file, str) and os.path.isabs(file))


def _search(folder: str, *patterns: str) -> str:
    """Return the path of a file or folder with such a name, deep down; empty if there is none."""
    for top, folders, files in itertools.islice(host_paths.walk(folder), _MOST_SEARCHED):
        for name in (*folders, *files):
            if any(fnmatch(name, pattern) for pattern in patterns):
                return os.path.join(top, name)
    return ""


def _lies(config: pytest.Config, tops: Sequence[str], folder: str) -> str:
    """Return in what the host imports or collects from a folder lies; empty if in nothing."""
    for path in map(os.path.realpath, packages.found()):
        if within(folder, path):
            return f"lies in the package {path!a}, which the host imports"
    for entry in dict.fromkeys(os.path.realpath(entry or ".") for entry in sys.path):
        if name := _importable(folder, entry):
            return f"lies in {entry!a}, a folder of sys.path, and can be imported as {name}"
    skipped = config.getini("norecursedirs")
    for top in tops:
        names = _parts(folder, top)
        if names and not any(fnmatch(name, pattern) for name in names for pattern in skipped):
            return f"lies in {top!a}, from which pytest collects"
    return ""


def _parts(folder: str, above: str) -> list[str]:
    return folder[len(above.rstrip("/")) + 1 :].split("/") if below(folder, above) else []


def _importable(folder: str, entry: str) -> str:
    """Return the name by which a folder below an entry of ``sys.path`` is imported; else empty.

    A folder is imported if there is Python code in it or above it. Without any, it could still
    take the place of another module.
    """
    names = _parts(folder, entry)
    if names and names[0].endswith((".dist-info", ".egg-info")):
        return names[0]
    if not names or not all(map(str.isidentifier, names)):
        return ""
    above = [os.path.join(entry, *names[:count]) for count in range(1, len(names))]
    holds_code = any(glob.glob(os.path.join(glob.escape(top), "*.py")) for top in above)
    if len(names) == 1:
        spec = PathFinder.find_spec(names[0])
        known = names[0] in {*sys.stdlib_module_names, *sys.modules}
        holds_code = known or (spec is not None and spec.origin is not None)
    return ".".join(names) if holds_code or _search(folder, "*.py") else ""


def _check_harmless(folder: str) -> None:
    if places.outer_uid() != 0 or not (point := harmful(folder)):
        return
    path = escape(shlex.quote(folder))  # whole, since it is to be pasted
    where = "" if point == folder else f" (its mount {escape(point)})"
    raise UsageError(
        f"--gvisor-writable={path} as root: a test could leave a set-uid program of root "
        f"there, because the file system{where} is not mounted with nosuid and nodev",
        next_step="Run pytest as an ordinary user, or mount such a file system there first: "
        f"`mount -t tmpfs -o nosuid,nodev tmpfs {path}`.",
    )


def harmful(folder: str) -> str:
    """Return the first of a folder and the mounts below it that allows set-uid programs or
    devices.
    """
    for point in (folder, *leftovers.mount_points(folder)):
        try:
            flags = os.statvfs(point).f_flag
        except OSError:
            return point
        if flags & _HARMLESS != _HARMLESS:
            return point
    return ""

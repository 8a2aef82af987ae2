"""The host's parts that a test inside sees: its project, its imports, and what was asked for.

If ``--gvisor-readable`` names a home folder, its entries are shown one by one. None whose name
begins with a dot is shown: keys and tokens of every program lie there. What is shown is read-only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import itertools
import os
import pwd
import shlex
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.escape import escape
from pytest_gvisor.inside.view import configuration
from pytest_gvisor.oci import packages, skeleton
from pytest_gvisor.oci.mounts import bind, danger, examine
from pytest_gvisor.oci.rootfs import HostRootfs, Rootfs
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.programs.paths import below, within

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
KEY = "gvisor_readable"
"""The ini key, and where argparse puts the option."""

OPTION = "--gvisor-readable"

_KEYS = (".ssh", ".gnupg", ".netrc")
_CREDENTIALS = (
    *_KEYS, ".aws", ".azure", ".cargo/credentials.toml", ".config/gcloud", ".config/gh", ".docker",
    ".git-credentials", ".kube", ".local/share/keyrings", ".mozilla", ".password-store", ".pgpass",
    ".pypirc", ".vault-token",
)  # fmt: skip
"""The entries of a home folder that hold keys and passwords of well-known programs."""

_MOST_ENTRIES = 256
"""The entries of home folders that are shown: each is a mount."""

_MOST_NAMED = 3
"""The packages of one folder that are named one by one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """The files and folders of the host that tests inside see, apart from the system's."""

    paths: tuple[str, ...]
    """They are at their own paths, read-only."""

    links: tuple[tuple[str, str], ...] = ()
    """Links of opened home folders, with their targets."""

    hidden: tuple[str, ...] = ()
    """Files and folders in `paths` in whose places are empty ones."""

    start: str
    """The folder that pytest was started in: an empty one where it is not in `paths`."""

    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The real paths of those that were asked for, as they were when pytest was started."""

    def mount(self, path: str) -> Mount:
        """Return the mount of one of `paths`. Raises `UsageError`."""
        made = bind(path, path, follow=True)
        # A link that another user has put there since then is not followed.
        return dataclasses.replace(made, source=self.sources.get(path, made.source))

    def holds(self, path: str) -> bool:
        """Whether a path lies in what tests inside see, links not resolved."""
        return _is_held(path, self.paths)

    @property
    def folders(self) -> list[str]:
        """Return all folders with code that a test may import."""
        return [*self.paths, *_SYSTEM, *_prefixes()]

    def root(self) -> Rootfs:
        """Return the root file system that these files and folders are mounted in."""
        folders = () if self.holds(self.start) else (self.start,)
        return HostRootfs(whole=True, links=self.links, folders=folders)


def shown(config: pytest.Config, items: Sequence[pytest.Item], asked: Mapping[str, str]) -> Shown:
    """Return what tests inside see: the project, its imports, and what was ``asked`` for.

    That is by `readable`. Raises `UsageError` where the rest would be a whole home folder or the
    root folder.
    """
    start = str(config.invocation_params.dir)
    sources = {**asked, **{real: real for real in asked.values()}}
    whole, opened, links = _opened(sources, str(config.rootpath))
    found: list[str] = []
    for path in sorted(whole):
        if not _is_held(path, found):
            found.append(path)
    wanted = {**dict.fromkeys(_optional(config, start)), **_needed(config, items, start)}
    ways = {way: p for p in wanted for way in (os.path.realpath(p), os.path.abspath(p))}
    for path in sorted(ways):
        if not _is_held(path, found) and path not in opened:
            if use := wanted[ways[path]]:
                _check(path, *use)
            found.append(path)
    hidden = tuple(_credentials(str(config.rootpath), found, whole))
    paths, named = tuple(found), tuple(links)
    return Shown(paths=paths, links=named, hidden=hidden, start=start, sources=sources)


def _credentials(root: str, found: Sequence[str], asked: Sequence[str]) -> Iterator[str]:
    """Yield the entries of home folders with keys and passwords, unless they were asked for.

    A shown folder with keys of ssh or gpg, or with a .netrc, is taken for a home folder. Of a link
    the target counts, which may lie in another folder that is shown.
    """
    homes = _homes(root)
    homes.update(p for p in found if any(os.path.lexists(os.path.join(p, n)) for n in _KEYS))
    names = [os.path.join(home, name) for home in sorted(homes) for name in _CREDENTIALS]
    if config := os.environ.get("XDG_CONFIG_HOME"):
        names += [os.path.join(config, name) for name in ("gcloud", "gh")]
    held = [(path, os.path.realpath(path)) for path in (*found, *_SYSTEM, *_prefixes())]
    for real in dict.fromkeys(map(os.path.realpath, names)):
        if os.path.isdir(real) or os.path.isfile(real):
            # A folder is shown under each of its names.
            places = {path + real[len(top) :] for path, top in held if below(real, top)}
            yield from (p for p in sorted(places) if not any(within(p, other) for other in asked))


def _needed(
    config: pytest.Config, items: Sequence[pytest.Item], start: str
) -> dict[str, tuple[str, str]]:
    """Return the folders that have to be shown, with the reason and a remedy for each."""
    imports = "it is on sys.path", "Take it off sys.path"
    wanted = dict.fromkeys(import_folders(start), imports)
    files = [*(str(item.path) for item in items), *configuration.files(items)]
    for folder, name in map(os.path.split, files):
        wanted[folder] = f"{name} lies in it", "Move the tests into a folder of their own"
    return {**wanted, str(config.rootpath): _use_of_root(config, start)}


def _use_of_root(config: pytest.Config, start: str) -> tuple[str, str]:
    """Return why the root folder is shown, and the remedy.

    pytest chooses it before it knows any plugin's options. So it takes the value of such an option
    for a path to test, unless the option has the form ``--option=PATH``.
    """
    use, remedy = (
        "it is the root folder of the tests",
        "Set --rootdir to a folder of the project's own",
    )
    if config.inipath is not None or getattr(config.option, "rootdir", None):
        return use, remedy
    if str(config.rootpath) == start:
        return f"{use}: pytest was started there, and has found no ini file", remedy
    words = [*map(str, config.invocation_params.args)]
    named = {
        word: before
        for before, word in itertools.pairwise(["", *words])
        if not word.startswith("-") and os.path.exists(os.path.join(start, word.partition("::")[0]))
    }
    use += f", which holds the paths on pytest's command line: {', '.join(map(shlex.quote, named))}"
    for word, option in named.items():
        if option.startswith("--") and "=" not in option:
            remedy = f"Write {option}={shlex.quote(word)}, or set{remedy.removeprefix('Set')}"
    return use, remedy


def import_folders(start: str) -> Iterator[str]:
    """Yield the folders of ``sys.path``.

    ``python -m pytest`` puts the folder of the start there, which tests need not import from.
    """
    for path in map(os.path.abspath, filter(None, sys.path)):
        if os.path.isdir(path) and not (path == start and skeleton.is_wide(path)):
            yield path


def _optional(config: pytest.Config, start: str) -> Iterator[str]:
    """Yield what is shown unless it is too wide.

    Of the ini file and of conftest.py files the folder may be, and then the file is shown alone.
    """
    wanted = [start, *packages.found()]
    if config.inipath is not None:
        wanted += [str(config.inipath), str(config.inipath.parent)]
    modules = config.pluginmanager._conftest_plugins
    wanted += [path for module in modules if isinstance(path := module.__file__, str)]
    yield from (path for path in wanted if not skeleton.is_wide(path))


def _is_held(path: str, found: Sequence[str]) -> bool:
    return any(within(path, other) for other in (*found, *_SYSTEM, *_prefixes()))


def _prefixes() -> list[str]:
    """Return the folders of Python that the host's root file system already has whole."""
    found = map(os.path.realpath, {sys.prefix, sys.base_prefix})
    return [path for path in found if not path.endswith("/.local")]


def named_packages(config: pytest.Config) -> list[str]:
    """Return the packages that are shown beside the project and ``sys.path``; many are counted."""
    known = [str(config.rootpath), str(config.invocation_params.dir)]
    known += map(os.path.abspath, filter(os.path.isdir, sys.path))
    known = [path for path in known if not skeleton.is_wide(path)]
    folders: dict[str, list[str]] = {}
    for path in packages.found():
        if not _is_held(path, known) and not skeleton.is_wide(path):
            folders.setdefault(os.path.dirname(path), []).append(path)
    named: list[str] = []
    for folder, found in folders.items():
        named += found if len(found) <= _MOST_NAMED else [f"{len(found)} in {folder}"]
    return named


def _check(path: str, use: str, remedy: str) -> None:
    if not skeleton.is_wide(path):
        return
    dots = ", of which names that begin with a dot stay hidden" * within(skeleton.home(), path)
    ask = f", or show it{dots}: --gvisor-readable={shlex.quote(path)}"
    raise UsageError(
        f"the tests would need all of {shlex.quote(path)} inside the sandbox, because {use}",
        next_step=f"{remedy}{'' if danger(os.path.realpath(path)) else ask}.",
    )


def readable(config: pytest.Config) -> dict[str, str]:
    """Return the paths asked for, globs resolved, with their real paths. Raises `UsageError`.

    A link that a test or a workload may have made is an error, unless it stays in the project.
    Nothing in a folder of ``--gvisor-writable`` is among them: tests see that folder anyway.
    """
    here = str(config.invocation_params.dir)
    base = str(config.inipath.parent if config.inipath else config.rootpath)
    found: dict[str, None] = {}
    for folder, asked in ((base, config.getini(KEY)), (here, config.getoption(KEY))):
        for path in asked:
            found |= dict.fromkeys(_resolved(folder, path))
    shared = [os.path.realpath(path) for path in config.getoption("gvisor_writable")]
    root = os.path.realpath(config.rootpath)
    return {path: real for path in found if (real := _real(path, root, shared))}


def _real(path: str, root: str, shared: Iterable[str]) -> str:
    """Return the real path of what is to be shown beside the project; empty where nothing is.

    Raises `UsageError` if it must not be shown.
    """
    remedy = (
        f"Name files and folders that tests need. The ini key {KEY} takes the same, one a line."
    )
    try:
        real, impossible, risk = examine(path, writable=False, follow=False)
        problem = f"it {impossible or risk}" if impossible or risk else ""
    except UsageError as error:
        if within(os.path.realpath(path), root):
            return ""
        problem, remedy, real = error.message, "Name the target itself, if tests need it.", path
    if problem:
        raise UsageError(f"{OPTION}={escape(shlex.quote(path))}: {problem}", next_step=remedy)
    return "" if any(within(real, folder) for folder in shared) else real


def _resolved(folder: str, asked: str) -> list[str]:
    """Return the paths that an entry names. A glob follows no link, and matches none."""
    path = top = os.path.normpath(os.path.join(folder, os.path.expanduser(asked)))
    if not glob.has_magic(path) or os.path.lexists(path):
        return [path]
    while glob.has_magic(top):
        top = os.path.dirname(top)
    real = os.path.realpath(top)
    return sorted(
        match
        for match in glob.glob(path)
        if os.path.realpath(match) == os.path.join(real, os.path.relpath(match, top))
    )


def _opened(
    asked: Iterable[str], root: str = "/"
) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """Return what is shown of these paths, home folders opened. Raises `UsageError`.

    The first list has files and folders that are shown whole. The second has folders of which the
    entries are shown instead. The third has links in those, with their targets, for whose sake
    nothing is shown.
    """
    homes = _homes(root)
    whole: list[str] = []
    folders: list[str] = []
    links: list[tuple[str, str]] = []
    waiting = sorted(asked)
    while waiting:
        path, *waiting = waiting
        real = os.path.realpath(path)
        if not os.path.isdir(path) or not any(within(home, real) for home in homes):
            whole.append(path)
            continue
        if path != real:
            links.append((path, real))
            continue
        folders.append(path)
        waiting += _entries(path, links, dots=path not in homes)
        if len(waiting) + len(whole) + len(links) > _MOST_ENTRIES:
            raise UsageError(
                f"{OPTION}={escape(shlex.quote(path))}: it has more than {_MOST_ENTRIES} entries",
                next_step="Name the entries that tests need.",
            )
    return [*dict.fromkeys(whole)], folders, links


def _entries(folder: str, links: list[tuple[str, str]], *, dots: bool) -> Iterator[str]:
    """Yield the files and folders in a folder that may be shown; add its links to ``links``."""
    try:
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if name.startswith(".") and not dots:
                continue
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                links.append((path, os.readlink(path)))
            elif stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                yield path
    except OSError as error:
        raise UsageError(f"{OPTION}={escape(shlex.quote(folder))}: {error.strerror}") from error


def _homes(root: str) -> set[str]:
    """Return home folders: this user's by both of its names, root's, and those in /home.

    That of the owner of ``root`` is one too, and so is that of the user who called sudo.
    """
    found = {*glob.glob("/home/*"), *skeleton.homes()} - {"/home"}
    with contextlib.suppress(OSError, KeyError):
        found.add(pwd.getpwuid(os.stat(root).st_uid).pw_dir)
    with contextlib.suppress(KeyError):
        found.add(pwd.getpwnam(os.environ.get("SUDO_USER", "")).pw_dir)
    return {*map(os.path.realpath, found)} - {"/"}

"""The host's folders that a workload sees by default: the system's, and the running Python's.

Only known parts of the prefix of a Python are shown. Passwords may lie beside them: ``pip.conf``,
settings of Jupyter, conda's variables. In these parts, an entry is hidden if fewer users may read
it than the folder that it lies in. Tests inside see a whole prefix, as they see their project.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.escape import shown
from pytest_gvisor.base.trust import text_of
from pytest_gvisor.oci.skeleton import homes
from pytest_gvisor.programs.paths import below, projects, within

# pyenv builds OpenSSL into the prefix, and conda's has its certificates there.
_PARTS: Final = (
    "bin", "sbin", "lib", "lib32", "lib64", "libexec", "include", "share", "pyvenv.cfg",
    "openssl/lib", "ssl/cert.pem", "ssl/cacert.pem", "ssl/openssl.cnf",
)  # fmt: skip
_BREW: Final = "/home/linuxbrew/.linuxbrew"
_STORES: Final = {
    "/nix/store": ("/nix/store",),
    "/gnu/store": ("/gnu/store",),
    _BREW: tuple(f"{_BREW}/{name}" for name in ("bin", "lib", "opt", "Cellar")),
}
_SYSTEM: Final = ("/usr", "/usr/local")
# With the libraries of other instruction sets. A project may be /library.
_TOP: Final = re.compile(r"s?bin|lib(exec|\w*32|64)?")
_SOURCES: Final = ("/usr/src", "/usr/local/src")
_SETTINGS: Final = ("/usr/etc", "/usr/local/etc")
_STANDARD: Final = frozenset(
    f"{prefix}/{name}"
    for prefix in _SYSTEM
    for name in ("bin", "games", "include", "lib", "lib32", "lib64", "libexec", "local", "sbin",
                 "share")
)  # fmt: skip
_LAYER: Final = re.compile(r"(/.+)/lib/python3\.\d+t?/site-packages")
_PACKAGES: Final = re.compile(r"/(site|dist)-packages(/|$)")
_READ: Final = stat.S_IRGRP | stat.S_IROTH
_BYTE_CODE: Final = "__pycache__"

MOST_PRIVATE: Final = 128
"""The private entries of a Python that are hidden: each is a mount."""


class System(NamedTuple):
    """The host's folders that are bound into a skeleton."""

    binds: tuple[tuple[str, str], ...]
    """Destination and source, parents first."""
    links: tuple[tuple[str, str], ...]
    """Links, such as ``bin`` to ``usr/bin``."""
    path: tuple[str, ...]
    """Folders of the running Python's programs, outside of the fixed PATH."""
    notes: tuple[str, ...]
    """Texts about parts that were left out, and why."""
    covers: tuple[str, ...] = ()
    """Files and folders below destinations that are hidden by empty ones."""

    def covered(self, taken: frozenset[str] = frozenset()) -> Iterator[str]:
        """Yield the hidden paths: `covers`, and projects and home folders in the system's folders.

        Left out are paths below a mount at ``taken``, and folders that are gone or have no files.
        """
        places = {destination for destination, _source in self.binds}
        for path in (*self.covers, *filter(self.holds, _of_users())):
            if _above(path, places | taken) in places - taken and has_files(path):
                yield path

    def holds(self, path: str) -> bool:
        """Whether a path lies in a bound folder, and is not hidden."""
        places = {destination for destination, _source in self.binds}
        return _above(path, places | {*self.covers}) in places


def has_files(path: str) -> bool:
    """Whether a path is a file, or a folder with more than folders in it.

    The ``include`` of an environment has an empty folder alone, for example. A folder that cannot
    be listed counts as one with files.
    """
    failed: list[OSError] = []
    return any(
        files or any(os.path.islink(f"{top}/{name}") for name in folders)
        for top, folders, files in os.walk(path, onerror=failed.append)
    ) or (bool(failed) and os.path.exists(path))


def _above(path: str, folders: frozenset[str] | set[str]) -> str:
    """Return the innermost of these folders that holds a path; empty if none does."""
    return max((folder for folder in folders if within(path, folder)), key=len, default="")


def _of_users() -> Iterator[str]:
    """Yield root folders of projects and home folders below /usr, unless they are the system's.

    The tests of an installed package have a root folder in the folder of packages.
    """
    for path in sorted({*map(os.path.realpath, (*projects, *homes()))}):
        ours = path in _STANDARD or within(os.path.dirname(os.__file__), path)
        if below(path, "/usr") and not ours and not _PACKAGES.search(path):
            yield path


def system(*, whole: bool = False) -> System:
    """Find this machine's system folders for this interpreter.

    With ``whole`` all of them is shown. Raises `UsageError` for a Python that has too much to hide.
    """
    binds, links = _top_level()
    notes, parted = [], []
    # If a Python was built into ~/.local, all programs keep a user's data in its ``share``.
    places = [*prefixes(), *(f"{home}/.local" for home in homes())]
    shares = {os.path.realpath(f"{one}/share") for one in places if one.endswith("/.local")}
    for prefix in prefixes():
        if stores := _store(prefix):
            binds.update((store, os.path.realpath(store)) for store in stores)
        elif prefix in _SYSTEM or (whole and any(within(prefix, place) for place in binds)):
            continue
        elif is_too_wide(prefix):
            why = "its folder is or holds a home folder"
            notes.append(f"the Python at {prefix} is not in the sandbox: {why}")
        elif whole and os.path.realpath(f"{prefix}/share") not in shares:
            binds[prefix] = os.path.realpath(prefix)
        else:
            parted.append(prefix)
    for place in (f"{prefix}/{part}" for prefix in parted for part in _parts(prefix)):
        if os.path.realpath(place) in shares:
            continue
        if os.path.islink(place):
            links[place.lstrip("/")] = os.readlink(place)
        elif has_files(place):
            binds[place] = os.path.realpath(place)
    for step in _steps():
        if os.path.islink(step) and not _above(step, {*binds}):
            links[step.lstrip("/")] = os.readlink(step)
    covers = [] if whole else [*_covers(binds, parted)]
    names = (os.path.basename(path) for path in covers if os.path.dirname(path) in sys.path)
    if packages := [name for name in names if name.removesuffix(".py").isidentifier()]:
        notes.append(f"other users may not read {', '.join(packages)}: not in the sandbox")
    folders = dict.fromkeys(f"{prefix}/bin" for prefix in prefixes() if prefix not in _SYSTEM)
    return System(
        binds=tuple(sorted(binds.items(), key=lambda entry: entry[0].count("/"))),
        links=tuple(links.items()),
        path=tuple(f for f in folders if os.path.isdir(f) and _above(f, {*binds})),
        notes=tuple(notes),
        covers=tuple(covers),
    )


def _parts(prefix: str) -> tuple[str, ...]:
    """Return the parts of a prefix that are shown.

    After ``python -m venv .`` a project's own files lie beside those of its environment. The tests
    of an installed package have a root folder in the folder of packages.
    """
    real = os.path.realpath(prefix)
    own = any(within(root, real) and not _PACKAGES.search(root) for root in projects)
    if own and os.path.isfile(f"{prefix}/pyvenv.cfg"):
        name = os.path.basename(os.path.dirname(os.__file__))
        return "bin", "lib64", f"lib/{name}", "pyvenv.cfg"
    return _PARTS


def _top_level() -> tuple[dict[str, str], dict[str, str]]:
    """Return what is bound at the top of a root, /usr among it, and links such as ``bin``."""
    binds, links = {"/usr": "/usr"}, {}
    for name in sorted(os.listdir("/")):
        if not _TOP.fullmatch(name):
            continue
        real = os.path.realpath(f"/{name}")
        if os.path.islink(f"/{name}") and within(real, "/usr"):
            links[name] = real.lstrip("/")
        elif os.path.isdir(real):
            binds[f"/{name}"] = real
    return binds, links


def _covers(binds: Mapping[str, str], parted: Sequence[str]) -> Iterator[str]:
    """Yield what is hidden in these binds, given the prefixes that are shown by their parts."""
    yield from filter(os.path.isdir, _SOURCES)
    for folder in filter(os.path.isdir, _SYSTEM):
        with os.scandir(folder) as entries:
            yield from (one.path for one in entries if one.is_file(follow_symlinks=False))
    yield from (prefix for prefix in parted if any(below(prefix, place) for place in binds))
    places = [(place, source) for place, source in binds.items() if _above(place, {*parted})]
    ours = {path for path in (*_SETTINGS, *map(os.path.realpath, filter(None, sys.path)))
            if within(path, "/usr") and not _above(path, {*parted})}  # fmt: skip
    places += [(path, path) for path in ours if not any(below(path, other) for other in ours)]
    # A folder with two names is searched once.
    hidden = {source: [*private(source)] for source in dict.fromkeys(s for _, s in places)}
    found = [place + path[len(source) :] for place, source in places for path in hidden[source]]
    if len(found) > MOST_PRIVATE:
        raise UsageError(
            f"the running Python has {len(found)} files and folders that other users may not read,"
            f" such as {shown(found[0])}, and {MOST_PRIVATE} at most are hidden from workloads",
            next_step="Let others read its packages (chmod -R o+rX), or install them anew.",
        )
    yield from found


def private(top: str) -> Iterator[str]:
    """Yield files and folders below a folder that fewer users may read than the folder above each.

    If an environment was made with a umask of 077, all of its folders are private, and none is more
    private than the one above it. Byte code counts as its source does: its own mode comes from the
    umask of the process that imported it first.

    Raises `OSError` where this process has no descriptor or memory for a look.
    """
    waiting = [top]
    while waiting:
        folder, found = waiting.pop(), list[str]()
        try:
            with os.scandir(folder) as entries:
                readers = os.stat(folder).st_mode & _READ
                for entry in entries:
                    try:
                        mode = entry.stat(follow_symlinks=False).st_mode
                    except FileNotFoundError:
                        continue
                    if entry.name == _BYTE_CODE or not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                        continue
                    if readers & ~mode:
                        found.append(entry.path)
                    elif stat.S_ISDIR(mode):
                        waiting.append(entry.path)
        except OSError as error:
            text_of(error)
        yield from found
        code = f"{folder}/{_BYTE_CODE}"
        if any(path.endswith(".py") for path in found) and os.path.isdir(code):
            yield code


def prefixes() -> list[str]:
    """Return the prefixes of the running Python and of its layers, the innermost first.

    Each has the names by which the links to its program use it.
    """
    ours = [sys.prefix, *_layers(), sys.base_prefix]
    real = {*map(os.path.realpath, ours)}
    used = [
        prefix
        for step in _steps()
        if os.path.realpath(prefix := os.path.dirname(os.path.dirname(step))) in real
        # The program itself; and /tmp is a file system of its own, in which no link can be made.
        or not os.path.islink(step)
        or within(step, "/tmp")
    ]
    found = [*ours[:-1], *used, ours[-1]]
    # A program that was started by a relative path has ".." in its own: no path of a mount may.
    both = [way for p in found for way in (os.path.normpath(p), os.path.realpath(p))]
    return [way for way in dict.fromkeys(both) if os.path.isabs(way) and os.path.isdir(way)]


def _steps() -> Iterator[str]:
    """Yield the running program and what the links lead to, as far as they lie in a ``bin``.

    A virtual environment's program is a link, in one step or more, to the program of another
    prefix. Each step must exist in the sandbox, under the name that the link before it uses. A step
    may lie in ``~/.local/bin``.
    """
    step = os.path.normpath(sys.executable)
    for _ in range(40):
        folder = os.path.dirname(step)
        if os.path.basename(folder) == "bin":
            yield step
        try:
            step = os.path.normpath(os.path.join(folder, os.readlink(step)))
        except OSError:
            break


def _layers() -> list[str]:
    """Return virtual environments whose packages a .pth file of the running one has added.

    ``uv run --with`` makes an environment for one command on top of the project's own.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    found = (_LAYER.fullmatch(os.path.normpath(path)) for path in sys.path if path not in given)
    folders = dict.fromkeys(match[1] for match in found if match)
    return [folder for folder in folders if os.path.isfile(f"{folder}/pyvenv.cfg")]


def _store(prefix: str) -> list[str]:
    """Return the folders of packages for a prefix whose libraries are beside it, not in it."""
    parts = next((parts for store, parts in _STORES.items() if within(prefix, store)), ())
    return [*filter(os.path.isdir, parts)]


def is_too_wide(prefix: str) -> bool:
    """Whether a prefix is or holds a home folder."""
    real = os.path.realpath(prefix)
    return real == "/" or os.path.dirname(real) == "/home" or any(within(h, real) for h in homes())

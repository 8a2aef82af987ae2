"""The Go toolchain of this machine: its path, its version, and whether root may run it.

What runs it is given an environment from a short list. Nothing of the caller's, and nothing that
``go env -w`` wrote, can switch Go's checksum database off.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pytest_gvisor.errors import InstallFailed, InstallTimeout
from pytest_gvisor.escape import escape
from pytest_gvisor.guest.checked_json import loads
from pytest_gvisor.programs.paths import SYSTEM_PATH
from pytest_gvisor.runsc import nix
from pytest_gvisor.trust import (
    WRITABLE_BY_OTHERS,
    Node,
    Trust,
    folder_problem,
    folder_problems,
    follow,
)

USUAL_PATHS = ("/usr/local/go/bin/go", "/usr/lib/go/bin/go", "/usr/lib/go-*/bin/go")
"""Where go.dev's archive and the distributions' packages put it, which sudo's PATH may lack."""

ASK_DEADLINE = 20.0

_ASKED = ("GOVERSION", "GOPROXY", "GOCACHE", "GOMODCACHE", "GOROOT", "GOTOOLDIR")
_PASSED_ON = ("GOPROXY", "GOCACHE", "GOMODCACHE", "GOPATH", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_VERSION = re.compile(r"go(\d+)\.(\d+)(?:\.(\d+)|rc\d+|beta\d+|$|(?=[ -]))", re.ASCII)
_SHOWN = 500

# "none" is no module's path: an empty value would make Go look into its files of settings.
_FIXED = {
    "CGO_ENABLED": "0",
    "GOENV": "off",
    "GOFLAGS": "-buildvcs=false",
    "GOINSECURE": "none",
    "GONOPROXY": "none",
    "GONOSUMDB": "none",
    "GOPRIVATE": "none",
    "GOSUMDB": "sum.golang.org",
    "GOTOOLCHAIN": "local",
    "GOWORK": "off",
}


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """A Go toolchain that may be run."""

    path: str
    version: tuple[int, int, int]
    """(1, 26, 3); of a version before a release the last number is -1."""

    env: Mapping[str, str]
    """The environment to build in."""


def wanted(version: tuple[int, int, int]) -> str:
    """Return the next step where there is no Go of ``version``."""
    number = ".".join(map(str, version))
    return (
        f"Install Go {number} or later (from the distribution, or from https://go.dev/dl/ to "
        "/usr/local/go), or take gVisor's own release: `pytest-gvisor install` without --from go."
    )


def find(
    needed: tuple[int, int, int],
    *,
    environ: Mapping[str, str] = os.environ,
    usual: tuple[str, ...] = USUAL_PATHS,
    until: float | None = None,
) -> Toolchain:
    """Find the first Go that is new enough, in PATH's absolute folders or the usual places.

    As root, one that others can change is refused. Raises `InstallFailed`. Takes `ASK_DEADLINE` for
    each that there is, and not longer than ``until`` of the monotonic clock.
    """
    as_root = os.geteuid() == 0
    passed = []
    for path in _candidates(environ.get("PATH", ""), usual):
        if as_root:
            _check(path, _problems(path))
        known = _asked(path, _environment(environ, as_root=as_root), until)
        version = _version(known["GOVERSION"])
        if version < needed:
            passed.append(f"{escape(path)} is {escape(known['GOVERSION'][:40]) or 'too old'}")
            continue
        if as_root:
            for name in ("GOROOT", "GOTOOLDIR", "GOCACHE", "GOMODCACHE"):
                _check(f"{path} (its {name} {known[name]})", _folder_problems(known[name]))
        env = _environment(environ, as_root=as_root) | _FIXED
        env |= {name: known[name] for name in ("GOPROXY", "GOCACHE", "GOMODCACHE") if known[name]}
        return Toolchain(path=path, version=version, env=env)
    number = ".".join(map(str, needed))
    there = "; ".join(passed) or "there is none in the absolute folders of PATH or in /usr/local/go"
    raise InstallFailed(f"Go {number} or later is needed: {there}", next_step=wanted(needed))


def _candidates(search_path: str, usual: tuple[str, ...]) -> Iterator[str]:
    folders = [folder for folder in search_path.split(":") if folder.startswith("/")]
    paths = [os.path.join(folder, "go") for folder in folders if "\0" not in folder]
    for pattern in usual:
        paths += sorted(glob.glob(pattern), reverse=True)
    seen = set()
    for path in paths:
        real = os.path.realpath(path)
        if real not in seen and os.path.isfile(real) and os.access(real, os.X_OK):
            seen.add(real)
            yield path


def _environment(environ: Mapping[str, str], *, as_root: bool) -> dict[str, str]:
    """Return the variables of the caller's environment that Go gets."""
    folders = [folder for folder in environ.get("PATH", "").split(":") if folder.startswith("/")]
    path = SYSTEM_PATH if as_root or not folders else ":".join(folders)
    env = {
        "PATH": path,
        "HOME": environ.get("HOME") or os.path.expanduser("~"),
        "LC_ALL": "C.UTF-8",
    }
    env |= {"GOTOOLCHAIN": "local", "GOSUMDB": _FIXED["GOSUMDB"]}
    for name in (*_PASSED_ON, *_PROXIES, "SSL_CERT_FILE", "SSL_CERT_DIR"):
        if value := environ.get(name):
            env[name] = value
    return env


def _asked(path: str, env: Mapping[str, str], until: float | None) -> dict[str, str]:
    """Ask a Go for its own and its user's settings."""
    left = ASK_DEADLINE if until is None else min(ASK_DEADLINE, until - time.monotonic())
    process = subprocess.Popen(
        [path, "env", "-json", *_ASKED],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=env, cwd="/", start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=max(0.001, left))
    except subprocess.TimeoutExpired:
        kind = InstallTimeout if left < ASK_DEADLINE else InstallFailed
        raise kind(
            f"{escape(path)} did not say its version within {max(0.0, left):.1f} s",
            next_step="Put a Go that works first in PATH.",
        ) from None
    finally:
        _kill(process)
    try:
        answer = loads(out)
        return {name: str(answer.get(name, "")) for name in _ASKED}
    except (ValueError, AttributeError):
        said = escape((err or out)[-_SHOWN:].decode("utf-8", "replace").strip())
        raise InstallFailed(
            f"{escape(path)} does not answer `go env -json` (status {process.returncode}): {said}",
            next_step="Put a Go that works first in PATH.",
        ) from None


def _kill(process: subprocess.Popen[bytes]) -> None:
    # The group outlives its leader where that has left somebody behind.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 9)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()


def _version(text: str) -> tuple[int, int, int]:
    found = _VERSION.search(text)
    if not found:
        return (0, 0, 0)
    before = "rc" in found[0] or "beta" in found[0]
    return int(found[1]), int(found[2]), -1 if before else int(found[3] or 0)


def _check(what: str, problems: list[str]) -> None:
    if problems:
        raise InstallFailed(
            f"refusing to run {escape(what)} as root: {'; '.join(problems)}",
            next_step="Use a Go, and caches of it, that only root can write to, or install as "
            "another user.",
        )


def _problems(path: str) -> list[str]:
    """Return why another user could replace the program at ``path``, by the rules for runsc."""
    trust = Trust.here(os.geteuid(), nix.STORE)
    with contextlib.ExitStack() as held:
        way = follow(path, held)
        found = [folder_problem(lookup, trust) for lookup in way.lookups]
        return [*_file_problems(way.stack[-1], trust), *dict.fromkeys(filter(None, found))]


def _file_problems(node: Node, trust: Trust) -> list[str]:
    found = []
    if not trust.owns(node):
        found.append(trust.stranger(node))
    if stat.S_IMODE(node.info.st_mode) & WRITABLE_BY_OTHERS:
        found.append("its group or others may write it")
    return found


def _folder_problems(path: str) -> list[str]:
    """Return the problems of a folder, or of the nearest one that exists above it."""
    if not path.startswith("/"):
        return []
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return [
        problem
        for problem in folder_problems(path, Trust.here(os.geteuid(), nix.STORE))
        if "noexec" not in problem
    ]

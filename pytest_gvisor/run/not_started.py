"""Remedies for a workload that lacks something of the host: a program, a file, a network.

Each is for pasting: into the call, after a command, or into a test.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import re
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pytest_gvisor.base.egress import missing
from pytest_gvisor.base.errors import ProgramNotStarted
from pytest_gvisor.base.escape import escape, shown
from pytest_gvisor.oci import root_paths
from pytest_gvisor.oci.host_paths import executed
from pytest_gvisor.oci.mounts import danger
from pytest_gvisor.oci.project import Project
from pytest_gvisor.oci.spec import Spec
from pytest_gvisor.oci.vocabulary import MountType
from pytest_gvisor.programs.paths import within
from pytest_gvisor.run.threads import look

# The releases of 2024 and 2026 have the same texts.
_NOT_FOUND = re.compile(r"error finding executable \".*\" in PATH \[(.*)\]: ", re.DOTALL)
_NOT_LOADED = re.compile(r"creating process: failed to load (.*): ([a-z ]+)\Z", re.DOTALL)

_NOT_THERE = frozenset({"no such file or directory", "not a directory"})
_LONGEST = 4096
_LIKENESS = 0.75
_MOST_PATHS = 20
TAIL = 64 * 1024
"""Bytes of standard error that are looked at."""

# As the C library, its shells and Python write it.
_ABSENT = re.compile(r"(?i)no such file|nonexistent|cannot create|can't open")
_PATH = re.compile(r"/[^\s'\":,;()<>\0]+")
NO_NETWORK = re.compile(
    r"(?i)name resolution|name or service not known|could not resolve|bad address '"
    r"|network is unreachable|connection refused"
)
"""Failures that a sandbox without a network makes."""

NO_NETWORK_TOLD = "This sandbox has no network, and its 127.0.0.1 is its own. To have the host's"
"""The beginning of a sentence that ends with a remedy."""

NO_DATABASE = "unable to open database file"
"""The message of sqlite for a folder that is not there. It names no path."""

# As Python and the loaders of glibc and musl write it.
_MODULE = re.compile(r"No module named '(\w+)")
# The first part keeps it from a new try at each character of a long word.
_LIBRARY = re.compile(r"(?<![\w.+-])([\w.+-]+\.so[.\d]*): (?:cannot open|No such file)")
_MOST_SEARCHED = 4

_Pairs = Mapping[str, str] | None


class Asker(NamedTuple):
    """Where a remedy is pasted: ``call`` names the call that takes it, ``""`` is the shell."""

    call: str = "the call"
    project: Project | None = None
    """A project that could be shown."""


CALL, AT_SHELL = Asker(), Asker(call="")


def error_of(
    records: Sequence[str], spec: Spec | None, command: str = "", asker: Asker = CALL
) -> ProgramNotStarted | None:
    """Return the error for a program that runsc could not start; None for any other failure.

    ``command`` is runsc's own command line.
    """
    if not records or spec is None or not spec.process.args:
        return None
    program = spec.process.args[0]
    if missing := _NOT_FOUND.search(records[-1]):
        message, step = not_found(program, missing[1].split(), spec, asker)
        status = 127
    elif refused := _NOT_LOADED.search(records[-1]):
        message, step = not_loaded(program, refused[2], spec, asker)
        status = 127 if refused[2] in _NOT_THERE else 126
    else:
        return None
    return ProgramNotStarted(
        message, program=program, status=status, records=records, command=command, next_step=step
    )


def hint(
    spec: Spec | None, asker: Asker = CALL, *, stderr: str = "", networked: bool = True,
    allow: Sequence[str] = (),
) -> str:  # fmt: skip
    """Return what a failed workload may lack of the host, with the remedy; or nothing.

    First its arguments count. A relative name counts if it has a suffix or a folder: `echo tests`
    means no file. Then ``stderr`` counts, with the modules and libraries that it names. A file that
    other users may not read does not count: nobody is advised to show a sandbox a secret.
    """
    if spec is not None and (found := look(lambda: _lacks(spec, asker, stderr), "")):
        return found
    if NO_DATABASE in stderr:
        remedy = _add(asker, mounts={"FOLDER": "FOLDER:rw"})
        return f"If the database lies in a folder of the host, {remedy}."
    if networked or not NO_NETWORK.search(stderr):
        return ""
    if allow:
        args = spec.process.args if spec is not None else ()
        entry = missing("\n".join((*args, stderr)), allow)
        return f"It is not in allow={[*allow]!r}. To reach it, {_add(asker, allow=[entry])}."
    return f"{NO_NETWORK_TOLD}, {_add(asker, network='host')}."


def searched(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield where a module or a library that a failure lacks may be on the host.

    That is the variable for its folder, the folder, and the path.
    """
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    for pattern, variable, folders, ends in (
        (_MODULE, "PYTHONPATH", sys.path, ("", ".py")),
        (_LIBRARY, "LD_LIBRARY_PATH", libraries, ("",)),
    ):
        names = [*dict.fromkeys(pattern.findall(text))][:_MOST_SEARCHED]
        for name, folder, end in itertools.product(names, filter(os.path.isabs, folders), ends):
            yield variable, folder, f"{folder}/{name}{end}"


def _lacks(spec: Spec, asker: Asker, stderr: str) -> str:
    for word in spec.process.args:
        if word.startswith("-") or "\0" in word or len(word) > _LONGEST:
            continue
        if ("/" in word or "." in word) and (found := _on_the_host_alone(word, spec, asker)):
            return found
    lines = [line for line in stderr.splitlines() if _ABSENT.search(line)]
    if NO_DATABASE in stderr:
        lines = [*stderr.splitlines(), *spec.process.args]
    paths = dict.fromkeys(path for line in lines for path in _PATH.findall(line[:_LONGEST]))
    for path in itertools.islice(paths, _MOST_PATHS):
        if found := _on_the_host_alone(path, spec, asker) or _no_folder(path, spec, asker):
            return found
    here = (found for found in searched(stderr) if os.path.isdir(found[2]) or _is_public(found[2]))
    return next(filter(None, (_by_variable(*found, spec, asker) for found in here)), "")


def _by_variable(variable: str, folder: str, path: str, spec: Spec, asker: Asker) -> str:
    """Return a sentence on a file that programs find by a variable, or nothing."""
    target = path if folder == os.path.expanduser("~") else folder
    real = os.path.realpath(target)
    mounts = {} if _is_shown(path, spec) else {real: target}
    if danger(real):
        return ""
    return (
        f'"{escape(path)}" is not found in the sandbox. To have it found as here, '
        f"{_add(asker, mounts=mounts, env={variable: folder})}."
    )


def not_found(program: str, folders: Sequence[str], spec: Spec, asker: Asker) -> tuple[str, str]:
    """Return the message and the next step for a name that is in no folder of the PATH."""
    message = f"program {shown(program)} was not found in the sandbox (PATH={':'.join(folders)})"
    return message, look(lambda: _nearest(program, folders, spec, asker), "")


def _nearest(program: str, folders: Sequence[str], spec: Spec, asker: Asker) -> str:
    """Return the host's program of this name, or the sandbox's of the most similar name."""
    near = difflib.get_close_matches(program, sorted(_names(folders, spec)), 1, _LIKENESS)
    if near == [program]:  # its folder to start in is missing
        return ""
    here = shutil.which(program) or ""
    if os.path.isabs(here) and _is_public(here):
        return f"{_told(here, spec, asker)} Call it by that path."
    return f"Did you mean {shown(near[0])}?" if near else ""


def not_loaded(program: str, cause: str, spec: Spec, asker: Asker) -> tuple[str, str]:
    """Return the message and the next step for a path that the sandbox cannot execute."""
    if cause not in _NOT_THERE:
        return f"program {shown(program)} cannot be executed in the sandbox: {cause}", ""
    message = f"program {shown(program)} was not found in the sandbox"
    if look(lambda: _is_shown(os.path.realpath(program), spec), otherwise=False):
        message += ", or the interpreter in its first line"
    return message, look(lambda: _on_the_host_alone(program, spec, asker), "")


def no_cwd(cwd: str, spec: Spec, asker: Asker) -> str:
    """Return a note on a folder to start in that only the host has, or nothing."""
    return look(lambda: _no_cwd(cwd, spec, asker), "")


def _no_cwd(cwd: str, spec: Spec, asker: Asker) -> str:
    if not os.path.isdir(cwd) or _is_shown(os.path.normpath(cwd), spec):
        return ""
    return (
        f'cwd="{escape(cwd)}" is a folder here, and an empty one in the sandbox. To show it, '
        f"{_add(asker, mounts={os.path.realpath(cwd): cwd})}."
    )


def _on_the_host_alone(word: str, spec: Spec, asker: Asker) -> str:
    """Return a sentence on a file that exists on the host and not in the sandbox, or nothing."""
    path = os.path.abspath(word)
    inside = os.path.normpath(os.path.join(spec.process.cwd, word))
    if not _is_public(path) or _is_shown(inside, spec):
        return ""
    return _told(path, spec, asker, word)


def _is_public(path: str) -> bool:
    """Whether a path is a regular file that other users may read."""
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        return stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)
    return False


def _told(path: str, spec: Spec, asker: Asker, word: str = "/") -> str:
    """Tell of a file, and how to show it: with its folder if that lies in the current one.

    A relative ``word`` for it needs the current folder too.
    """
    folder, here, real = os.path.dirname(path), os.getcwd(), os.path.realpath(path)
    above = os.path.realpath(folder)
    is_root = folder in {"/", os.path.expanduser("~")} or danger(above)
    source, target = real, path
    # The target of a link may lie in another folder.
    if within(folder, here) and not is_root and real == os.path.join(above, os.path.basename(path)):
        source, target = above, folder
    told = f'"{escape(path)}" exists here but not in the sandbox.'
    cwd = "" if os.path.isabs(word) or spec.process.cwd == here else here
    show = _add(asker, mounts={source: target}, cwd=cwd)
    told += f" To show it, {show}"
    project = asker.project
    # It starts in the root folder then, where a relative name has to mean the same file.
    means_it = project and (os.path.isabs(word) or os.path.join(project.root, word) == path)
    if project and means_it and project.would_show(real):
        told += (
            "; or the whole project, with @pytest.mark.gvisor(project=True) on the test, or "
            "gvisor_project = true in the ini file"
        )
    return f"{told}."


def _add(asker: Asker, mounts: _Pairs = None, env: _Pairs = None, **words: object) -> str:
    """Return the request to add arguments to a call, or options to ``pytest-gvisor run``."""
    if asker.call:
        given = {"mounts": mounts, **words, "env": env}
        told = ", ".join(f"{name}={value!r}" for name, value in given.items() if value)
        return f"add {told} to {asker.call}"
    options = [("--mount", f"{source}:{target}") for source, target in (mounts or {}).items()]
    options += [(f"--{name}", str(value)) for name, value in words.items() if value]
    options += [("--env", f"{name}={value}") for name, value in (env or {}).items()]
    return f"add {escape(shlex.join(itertools.chain(*options)))}"


def _no_folder(path: str, spec: Spec, asker: Asker) -> str:
    """Return a sentence on a folder for a new file that only the host has, or nothing."""
    folder = os.path.dirname(os.path.normpath(path))
    real = os.path.realpath(folder)
    if not os.path.isdir(real) or os.path.lexists(path) or _is_shown(folder, spec):
        return ""
    if danger(real, writable=True) or executed(real):
        return ""
    return (
        f'"{escape(folder)}" is a folder here, and not in the sandbox. To write to it, '
        f"{_add(asker, mounts={real: f'{folder}:rw'})}."
    )


def _is_shown(inside: str, spec: Spec) -> bool:
    """Whether a sandbox has a file at a path when it starts, as far as the host can tell."""
    # The mounts are at the places that links of the root lead to.
    paths = {inside, root_paths.resolve(spec.root.path, inside, {}).inside}
    if any(within(mount.destination, path) for mount in spec.mounts for path in paths):
        return True  # it is a mount point, or a folder on the way to one
    paths.add(os.path.realpath(inside))
    found = [_on_host(path, spec) for path in paths]
    return any(path is None or os.path.lexists(path) for path in found)


def _on_host(inside: str, spec: Spec) -> str | None:
    """Return the host's path of a path of the sandbox; None in a file system such as /proc, whose
    files come from gVisor's kernel.

    The path is empty where the sandbox has a new tmpfs. Links inside are not followed.
    """
    mounts = [mount for mount in spec.mounts if within(inside, mount.destination)]
    if not mounts:
        return spec.root.path + inside
    above = max(mounts, key=lambda mount: len(mount.destination))
    if above.is_bind:
        return above.source + inside[len(above.destination) :]
    return "" if above.type is MountType.TMPFS else None


def _names(folders: Sequence[str], spec: Spec) -> set[str]:
    """Return the names in the folders of the sandbox's PATH."""
    names: set[str] = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            names.update(os.listdir(_on_host(folder, spec) or ""))
    return names

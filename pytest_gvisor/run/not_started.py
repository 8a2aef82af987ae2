"""A program that cannot be started in a sandbox, and files that are on the host alone."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shutil
import stat
from collections.abc import Sequence

from pytest_gvisor.base.errors import ProgramNotStarted
from pytest_gvisor.base.escape import escape, shown
from pytest_gvisor.oci.skeleton import is_wide
from pytest_gvisor.oci.spec import Spec
from pytest_gvisor.oci.vocabulary import MountType
from pytest_gvisor.programs.paths import within
from pytest_gvisor.run.threads import look

# The same words in the releases of 2024 and 2026.
_NOT_FOUND = re.compile(r"error finding executable \".*\" in PATH \[(.*)\]: ", re.DOTALL)
_NOT_LOADED = re.compile(r"creating process: failed to load (.*): ([a-z ]+)\Z", re.DOTALL)

_NOT_THERE = frozenset({"no such file or directory", "not a directory"})
_LONGEST = 4096
_LIKENESS = 0.75
_WHOLE = "the whole project with @pytest.mark.gvisor(project=True) (ini: gvisor_project)"


def error_of(
    records: Sequence[str], spec: Spec | None, command: str = "", project: str = ""
) -> ProgramNotStarted | None:
    """Return the error for a program that runsc could not start; None for any other failure.

    ``command`` is runsc's own command line, ``project`` a root folder that could be shown.
    """
    if not records or spec is None or not spec.process.args:
        return None
    program = spec.process.args[0]
    if missing := _NOT_FOUND.search(records[-1]):
        message, step = _not_found(program, missing[1].split(), spec, project)
        status = 127
    elif refused := _NOT_LOADED.search(records[-1]):
        message, step = _not_loaded(program, refused[2], spec, project)
        status = 127 if refused[2] in _NOT_THERE else 126
    else:
        return None
    return ProgramNotStarted(
        message, program=program, status=status, records=records, command=command, next_step=step
    )


def hint(spec: Spec | None, project: str = "") -> str:
    """Return a sentence on the first argument of the workload that names a file of the host alone.

    A relative name counts if it has a suffix or a folder: `echo tests` means no file. A file that
    other users may not read does not count: nobody is advised to show a sandbox a secret.
    ``project`` is a root folder that could be shown.
    """
    return "" if spec is None else look(lambda: _hint(spec, project), "")


def _hint(spec: Spec, project: str) -> str:
    for word in spec.process.args:
        if word.startswith("-") or "\0" in word or len(word) > _LONGEST:
            continue
        if ("/" in word or "." in word) and (found := _on_the_host_alone(word, spec, project)):
            return found
    return ""


def _not_found(program: str, folders: Sequence[str], spec: Spec, project: str) -> tuple[str, str]:
    """Return the message and the next step for a name that is in no folder of the PATH."""
    message = f"program {shown(program)} was not found in the sandbox (PATH={':'.join(folders)})"
    return message, look(lambda: _nearest(program, folders, spec, project), "")


def _nearest(program: str, folders: Sequence[str], spec: Spec, project: str) -> str:
    """Return the sandbox's program of the most similar name, or the host's of this name."""
    near = difflib.get_close_matches(program, sorted(_names(folders, spec)), 1, _LIKENESS)
    if near:
        return f"Did you mean {shown(near[0])}?"
    here = shutil.which(program) or ""
    return _told(here, project) if os.path.isabs(here) and _is_public(here) else ""


def _not_loaded(program: str, cause: str, spec: Spec, project: str) -> tuple[str, str]:
    """Return the message and the next step for a path that the sandbox cannot execute."""
    if cause not in _NOT_THERE:
        return f"program {shown(program)} cannot be executed in the sandbox: {cause}", ""
    message = f"program {shown(program)} was not found in the sandbox"
    if look(lambda: _is_shown(os.path.realpath(program), spec), otherwise=False):
        message += ", or the interpreter in its first line"
    return message, look(lambda: _on_the_host_alone(program, spec, project), "")


def _on_the_host_alone(word: str, spec: Spec, project: str) -> str:
    """Return a sentence on a file that exists on the host and not in the sandbox, or nothing."""
    path = os.path.abspath(word)
    inside = os.path.normpath(os.path.join(spec.process.cwd, word))
    return "" if not _is_public(path) or _is_shown(inside, spec) else _told(path, project)


def _is_public(path: str) -> bool:
    """Whether a path is a regular file that other users may read."""
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        return stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)
    return False


def _told(path: str, project: str = "") -> str:
    """Tell of a file, and how to show it: with its folder if that lies in the current one."""
    folder, here = os.path.dirname(path), os.path.abspath(".")
    is_root = folder in {"/", os.path.expanduser("~")}
    source = folder if within(folder, here) and not is_root else path
    show = f"mounts=[bind({source!r}, {source!r})] (pytest-gvisor run: --mount)"
    if project and within(path, project) and not is_wide(project):
        show += f", or {_WHOLE}"
    return f'"{escape(path)}" exists here but not in the sandbox. Show it with {show}.'


def _is_shown(inside: str, spec: Spec) -> bool:
    """Whether a sandbox has a file at a path when it starts, as far as the host can tell."""
    paths = {inside, os.path.realpath(inside)}
    found = [_on_host(path, spec) for path in paths]
    return any(path is None or os.path.lexists(path) for path in found)


def _on_host(inside: str, spec: Spec) -> str | None:
    """Return the host's path of a path of the sandbox; None where gVisor's kernel has files.

    The path is empty where the sandbox has a new file system. Links inside are not followed.
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

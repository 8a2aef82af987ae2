"""``pytest-gvisor init``: files that run the tests of the project in this folder under gVisor."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import tomllib
from collections.abc import Sequence
from typing import Any

from pytest_gvisor.base import removed
from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.escape import escape
from pytest_gvisor.cli import parsers
from pytest_gvisor.programs import linux
from pytest_gvisor.report import outputs

PLACES = {
    "github": ".github/workflows/gvisor.yml",
    "gitlab": ".gitlab-ci.yml",
    "docker": "gvisor.Dockerfile",
    "kubernetes": "gvisor-jobs.yaml",
}
"""The place of each file, where its service or tool looks."""

_PLATFORMS = ("systrap", "ptrace")
"""The platforms that work wherever sandboxes do. Whether kvm does depends on the machine."""

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

_TEMPLATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ci")
_MOST_BYTES = 1024 * 1024
_SETS = ("test", "tests", "testing")
_REQUIREMENTS = (
    "requirements-test.txt", "requirements-dev.txt", "requirements/test.txt", "requirements.txt",
)  # fmt: skip


def parser() -> parsers.Parser:
    """The subcommand's options."""
    made = parsers.Parser(
        "init",
        description="Writes a file that runs the tests of the project in this folder on each of "
        "gVisor's platforms. The file is for a CI service, docker or Kubernetes. Read it before "
        "you commit it.",
        statuses={"0": "the file is written", "2": "the file exists, or an option is invalid"},
        examples=(
            "pytest-gvisor init",
            "pytest-gvisor init gitlab --output -",
            "pytest-gvisor init docker",
        ),
    )
    made.add_argument(
        "file", nargs="?", choices=tuple(PLACES), metavar="FOR", type=_there_is,
        help=f"{', '.join(PLACES)} (default: the CI service that the project's files name)",
    )  # fmt: skip
    made.add_argument(
        "--kvm", action="store_true",
        help="the platform kvm too, for machines where gVisor's kvm is known to work",
    )  # fmt: skip
    made.add_argument(
        "--shards", type=int, default=4, choices=range(1, 1001), metavar="N",
        help="for kubernetes: in how many pods the tests run (default: 4)",
    )  # fmt: skip
    made.add_argument(
        "--output", metavar="FILE",
        help="the file to write (default: where the service looks; - is standard output)",
    )  # fmt: skip
    return made


def main(arguments: Sequence[str]) -> int:
    """Write the file.

    Raises `UsageError` for an existing file and for one reached by a link, `OSError` on failure.
    """
    given = parser().parse_args(arguments)
    chosen = given.file or guess(".")
    text = render(chosen, ".", kvm=given.kvm, shards=given.shards)
    output = given.output or PLACES[chosen]
    if output == "-":
        print(text, end="")
        return 0
    if not given.output and os.path.realpath(output) != os.path.realpath(os.curdir) + f"/{output}":
        raise UsageError(f"a link leads to {output}", next_step="Name the place with --output.")
    _write(output, text, chosen, named=bool(given.output))
    print(f"wrote {output}")
    return 0


def _there_is(word: str) -> str:
    if word in removed.FILES:
        raise argparse.ArgumentTypeError(f"it writes none for {word}. {removed.FILES[word]}")
    return word


def _write(path: str, text: str, service: str, *, named: bool) -> None:
    """Write the file. Only one that the user has ``named`` is reached by a link."""
    folder, name = os.path.split(path)
    folder = outputs.made(os.path.join(os.getcwd(), folder)) if named else folder or os.curdir
    os.makedirs(folder, exist_ok=True)
    way = linux.openat2(linux.AT_FDCWD, os.fsencode(folder), os.O_DIRECTORY, linux.NO_LINKS)
    try:
        with (
            linux.closing(way),
            open(os.open(name, _NEW, 0o666, dir_fd=way), "w", encoding="utf-8") as file,
        ):
            file.write(text)
    except FileExistsError:
        step = "Give another --output, or remove it."
        if service == "gitlab":
            step += " GitLab reads a second file with `include: - local: FILE`."
        raise UsageError(f"{path} is there already", next_step=step) from None


def guess(folder: str) -> str:
    """Guess the project's CI service by its files; the default is GitHub."""
    has_github = os.path.isdir(os.path.join(folder, ".github"))
    has_gitlab = os.path.exists(os.path.join(folder, PLACES["gitlab"]))
    return "gitlab" if has_gitlab and not has_github else "github"


def render(chosen: str, folder: str, *, kvm: bool = False, shards: int = 4) -> str:
    """Render the file for the project in a folder. Raises `UsageError`."""
    with open(os.path.join(_TEMPLATES, f"{chosen}.txt"), encoding="utf-8") as file:
        lines = file.read().splitlines(keepends=True)
    unwanted, wanted = ("@NO-KVM@", "@KVM@") if kvm else ("@KVM@", "@NO-KVM@")
    text = "".join(line.removeprefix(wanted) for line in lines if not line.startswith(unwanted))
    arguments, file_read = install_arguments(folder)
    arguments.append("pytest-gvisor")
    platforms = [*_PLATFORMS, "kvm"] if kvm else [*_PLATFORMS]
    values = {
        "INSTALL": shlex.join(arguments),
        "KEY": f"'{file_read}'",
        "PLATFORMS": ", ".join(platforms),
        "SHARDS": str(shards),
    }
    return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], text)


def install_arguments(folder: str) -> tuple[list[str], str]:
    """Return pip's arguments for the project and its tests, and the file that names them."""
    path = os.path.join(folder, "pyproject.toml")
    if os.path.exists(path):
        project = _read(path)
        groups = [name for name in _SETS if name in _table(project, "dependency-groups")]
        group = ["--group", groups[0]] if groups else []
        if "project" in project or "build-system" in project or _has_setup(folder):
            return [*group, "."] if group else [_with_extra(project)], "pyproject.toml"
        if group:
            return group, "pyproject.toml"
    if _has_setup(folder):
        return ["."], "setup.*"
    for name in _REQUIREMENTS:
        if os.path.exists(os.path.join(folder, name)):
            return ["-r", name], name
    return [], "**/*.py"


def _has_setup(folder: str) -> bool:
    return any(os.path.exists(os.path.join(folder, f"setup.{end}")) for end in ("py", "cfg"))


def _with_extra(project: dict[str, Any]) -> str:
    """Return pip's argument for the project, and for the extra of its tests if it has one."""
    extras = _table(_table(project, "project"), "optional-dependencies")
    return next((f".[{name}]" for name in _SETS if name in extras), ".")


def _table(content: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a table of the file; an empty one in the place of anything else."""
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb", opener=outputs.at_once) as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES} bytes")
        return tomllib.loads(text.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {escape(str(error))}") from error

"""``pytest-gvisor init``: a CI matrix over gVisor's platforms, for the project in this folder."""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_gvisor.cli import usage
from pytest_gvisor.errors import GvisorError, UsageError
from pytest_gvisor.escape import escape

if TYPE_CHECKING:
    import argparse

PLACES = {"github": ".github/workflows/gvisor.yml", "gitlab": ".gitlab-ci.yml"}
"""Where each service looks."""

_TEMPLATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ci")
_SETS = ("test", "tests", "testing")
_REQUIREMENTS = (
    "requirements-test.txt", "requirements-dev.txt", "requirements/test.txt", "requirements.txt",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The subcommand's options."""
    made = usage.parser(
        "init",
        description="Writes a CI configuration that runs the tests of the project in this folder "
        "on each of gVisor's platforms. Read it before you commit it.",
        statuses={"0": "the file is written", "2": "the file exists, or an option is invalid"},
        examples=("pytest-gvisor init", "pytest-gvisor init --ci gitlab --output -"),
    )
    made.add_argument(
        "--ci", choices=PLACES, help="the service (default: guessed by the project's files)"
    )
    made.add_argument(
        "--output", metavar="FILE",
        help="the file to write (default: the service's own; - is standard output)",
    )  # fmt: skip
    made.add_argument("--force", action="store_true", help="overwrite an existing file")
    return made


def main(arguments: Sequence[str]) -> int:
    """Write the matrix. Raises `UsageError` for an existing file, `GvisorError` on failure."""
    given = parser().parse_args(arguments)
    service = given.ci or guess(".")
    text = render(service, ".")
    output = given.output or PLACES[service]
    if output == "-":
        print(text, end="")
        return 0
    _write(output, text, service, force=given.force)
    print(f"wrote {output}")
    return 0


def _write(path: str, text: str, service: str, *, force: bool) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    try:
        if not os.path.isdir(folder):
            os.makedirs(folder)
    except OSError as error:
        raise GvisorError(f"{folder} cannot be made: {error.strerror or error}") from error
    try:
        with open(path, "w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        step = "Give another --output, or --force to overwrite it."
        if service == "gitlab":
            step += " GitLab reads a second file with `include: - local: FILE`."
        raise UsageError(f"{path} is there already", next_step=step) from None
    except OSError as error:
        raise GvisorError(f"{path} cannot be written: {error.strerror or error}") from error


def guess(folder: str) -> str:
    """Guess the project's CI service by its files; the default is GitHub."""
    has_github = os.path.isdir(os.path.join(folder, ".github"))
    has_gitlab = os.path.exists(os.path.join(folder, PLACES["gitlab"]))
    return "gitlab" if has_gitlab and not has_github else "github"


def render(service: str, folder: str) -> str:
    """Render the configuration for the project in a folder. Raises `UsageError`."""
    with open(os.path.join(_TEMPLATES, f"{service}.yml"), encoding="utf-8") as file:
        text = file.read()
    arguments, file_read = install_arguments(folder)
    command = shlex.join([*arguments, "pytest-gvisor"])
    return text.replace("@INSTALL@", command).replace("@KEY@", f"'{file_read}'")


def install_arguments(folder: str) -> tuple[list[str], str]:
    """Return pip's arguments for the project and its tests, and the file that names them."""
    path = os.path.join(folder, "pyproject.toml")
    if os.path.exists(path):
        project = _read(path)
        if "project" in project or "build-system" in project or _has_setup(folder):
            return _of_project(project), "pyproject.toml"
        groups = [name for name in _SETS if name in project.get("dependency-groups", {})]
        if groups:
            return ["--group", groups[0]], "pyproject.toml"
    if _has_setup(folder):
        return ["."], "setup.*"
    for name in _REQUIREMENTS:
        if os.path.exists(os.path.join(folder, name)):
            return ["-r", name], name
    return [], "**/*.py"


def _has_setup(folder: str) -> bool:
    return any(os.path.exists(os.path.join(folder, f"setup.{end}")) for end in ("py", "cfg"))


def _of_project(project: dict[str, Any]) -> list[str]:
    for name in _SETS:
        if name in project.get("dependency-groups", {}):
            return ["--group", name, "."]
    metadata = project.get("project", {})
    extras = metadata.get("optional-dependencies", {}) if isinstance(metadata, dict) else {}
    for name in _SETS:
        if name in extras:
            return [f".[{name}]"]
    return ["."]


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {escape(str(error))}") from error

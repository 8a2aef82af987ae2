"""Runs a tiny project of each plugin inside gVisor and on the host, and compares all that is seen.

A file of plugins/ is named like the plugin's distribution, and has these keys:

- ``version``, ``requirements``: what scripts/suites installs, beside the pytest of .venv.
- ``files``, ``environment``, ``before``: the project, its variables, and commands to prepare it.
- ``arguments``, ``status``: pytest's, and how it ends on the host.
- ``written``, ``varying``: globs of files to compare too, and expressions for what is left out.
- ``named``: whether the warning of plugins without a bridge names it.
- ``difference``: patterns of lines that only the host or only the run inside has, and the cause.
"""

import dataclasses
import difflib
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from tests.suites.compare import FETCHED, HERE, Outcomes

PROJECTS: dict[str, dict[str, Any]] = {
    path.stem: tomllib.loads(path.read_text()) for path in sorted((HERE / "plugins").glob("*.toml"))
}
"""By the name of the plugin."""

_VARYING = [
    (r"\d+(\.\d+)?(s|ms|us|µs)\b( \([\d:]+\))?", "TIME"),
    (r"\[ *\d+%\]", ""),
    (r"0x[0-9a-f]{6,}", "ADDRESS"),
    (r"pytest-of-\w+/pytest-\d+", "BASE"),
    (r"[=-]{3,}", "---"),
    (r"\s+$", ""),
]
# The lines of the one warning that names plugins, in a section that may be there for it alone.
_NAMED = "  *: PytestGvisorWarning: plugins that sum up on the host*: {} *"
_AROUND_IT = (
    "", "--- warnings summary ---", "-- Docs: *", "*/_pytest/config/__init__.py:*",
    "    warnings.warn(warning, stacklevel=stacklevel)",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """One run of a project, as a user sees it."""

    status: int
    outcomes: Outcomes
    lines: list[str]
    files: dict[str, list[str]]


def run(name: str, project: Path, *arguments: str) -> Seen:
    """Run the tests of a plugin's project in a new folder, which is at the same path each time."""
    site = FETCHED / name / "site"
    assert site.is_dir(), f"{site} is not there: run scripts/suites plugins"
    wanted = PROJECTS[name]
    _write(project, wanted["files"])
    file = project.with_name("outcomes.json")
    file.write_text("{}")
    env = {
        **{key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ},
        "PYTHONPATH": f"{site}:{HERE}",
        "OUTCOMES_FILE": str(file),
        "PYTHONHASHSEED": "0",
        "COLUMNS": "150",
        **wanted.get("environment", {}),
    }
    for command in wanted.get("before", []):
        subprocess.run(command, cwd=project, shell=True, check=True, env=env, timeout=60)
    command = [sys.executable, "-m", "pytest", "-p", "outcomes", "-v"]
    done = subprocess.run(
        [*command, *wanted.get("arguments", []), *arguments],
        cwd=project, env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if wanted.get("named"):
        wanted = {**wanted, "varying": [*wanted.get("varying", []), r", \d+ warnings?(?=.* in )"]}
    varying = [*((pattern, "") for pattern in wanted.get("varying", [])), *_VARYING]
    return Seen(
        status=done.returncode,
        outcomes=json.loads(file.read_text()),
        lines=_plain(done.stdout + done.stderr, varying),
        files={
            str(path.relative_to(project)): _plain(path.read_text(errors="replace"), varying)
            for glob in wanted.get("written", [])
            for path in sorted(project.glob(glob))
            if path.is_file()
        },
    )


def _write(project: Path, files: dict[str, str]) -> None:
    shutil.rmtree(project, ignore_errors=True)
    configured = files.keys() & {"pytest.ini", "pyproject.toml"}
    for name, text in {**({} if configured else {"pytest.ini": "[pytest]\n"}), **files}.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _plain(text: str, varying: list[tuple[str, str]]) -> list[str]:
    """A text without gVisor's own lines, and without what is another in each run."""
    ours = re.compile(r"(?i)gvisor:|again: |-+ gvisor: ")
    kept = [line for line in text.splitlines() if not ours.match(line)]
    for pattern, instead in varying:
        kept = [re.sub(pattern, instead, line) for line in kept]
    return kept


def compare(name: str, project: Path, *inside: str) -> None:
    """Fail where a run inside shows anything else that is not listed, or does not show what is."""
    host, there = (run(name, project, *more) for more in (("--no-gvisor",), inside))
    wanted = PROJECTS[name]
    assert host.status == wanted.get("status", 0), "\n".join(host.lines)
    assert host.outcomes or wanted.get("no_outcomes"), "\n".join(host.lines)
    assert wanted.get("written", []) == [] or host.files
    named = any(fnmatch.fnmatchcase(line, _NAMED.format(name)) for line in there.lines)
    assert named == wanted.get("named", False), "\n".join(there.lines)
    differences = wanted.get("difference", [])
    assert all(one["cause"] for one in differences)
    unused = [one for side in ("host", "inside") for one in _patterns(differences, side)]
    left = []
    for seen, side in ((host, "host"), (there, "inside")):
        listed = _patterns(differences, side)
        shown = _shown(seen)
        matched = {one for one in listed if any(fnmatch.fnmatchcase(line, one) for line in shown)}
        unused = [one for one in unused if one not in matched]
        listed += _AROUND_IT if named else ()
        left.append(
            [line for line in shown if not any(fnmatch.fnmatchcase(line, one) for one in listed)]
        )
    assert left[1] == left[0], "\n".join(difflib.unified_diff(left[0], left[1], n=1))
    assert unused == [], "listed differences that are not seen"


def _patterns(differences: list[dict[str, Any]], side: str) -> list[str]:
    return [one for difference in differences for one in difference.get(side, [])]


def _shown(seen: Seen) -> list[str]:
    """All of a run as lines: the patterns of a difference match these."""
    return [
        *seen.lines,
        *(f"{test}: {phases}" for test, phases in seen.outcomes.items()),
        f"exit status {seen.status}",
        *(f"{name}: {line}" for name, lines in seen.files.items() for line in ["", *lines]),
    ]

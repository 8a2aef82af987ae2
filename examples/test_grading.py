"""A batch of submissions, each graded in a sandbox of its own, with a report for each.

    SUBMISSIONS=folder REPORTS=reports pytest -n4 examples/test_grading.py

grades each folder/*.py in four processes. Without these variables it grades a few that it has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import pytest_gvisor
from pytest_gvisor import Loaded, NoAnswer, RemoteError

OWN = {
    "right": "def add(a, b): return a + b\ndef head(items): return items[0]\n",
    "wrong": "def add(a, b): return a - b\ndef head(items): return items[0] if items else None\n",
    "crash": "import os\ndef add(a, b): os.abort()\ndef head(items): os._exit(0)\n",
    "cheat": "class Any:\n    __eq__ = lambda *_: True\ndef add(a, b): return Any()\nhead = add\n",
}
FILES = sorted(Path(os.environ["SUBMISSIONS"]).glob("*.py")) if "SUBMISSIONS" in os.environ else []


def raises(name: str, call: Callable[[], object]) -> bool:
    try:
        call()
    except RemoteError as error:
        return name in error.type_names
    return False


CHECKS: dict[str, Callable[[Loaded], bool]] = {
    "adds": lambda solution: solution.add(2, 2) == 4,
    "finds the head": lambda solution: solution.head(["first", 2]) == "first",
    "refuses an empty list": lambda solution: raises("IndexError", lambda: solution.head([])),
}


def grade(box: pytest_gvisor.Sandbox, file: Path) -> dict[str, str]:
    report = {}
    for name, check in CHECKS.items():
        try:
            # Each check has a process of its own: a crash in one leaves the others as they are.
            with box.load(file, timeout=20) as solution:
                report[name] = "passed" if check(solution) is True else "failed"
        except RemoteError as error:
            report[name] = f"raised {error.type_name}"
        except NoAnswer as error:
            report[name] = str(error).splitlines()[0]
    return report


@pytest.mark.parametrize("name", OWN if not FILES else [file.name for file in FILES])
def test_a_submission(gvisor_sandbox: pytest_gvisor.Sandbox, tmp_path: Path, name: str) -> None:
    file = tmp_path / "solution.py"
    if name in OWN:
        file.write_text(OWN[name])
    else:
        file = Path(os.environ["SUBMISSIONS"]) / name
    report = grade(gvisor_sandbox, file)
    folder = Path(os.environ.get("REPORTS", tmp_path / "reports"))
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=2))
    if name in OWN:
        assert list(report.values()).count("passed") == {"right": 3, "wrong": 1}.get(name, 0)

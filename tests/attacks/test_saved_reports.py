"""A saved report that somebody else has made, for ``report merge`` and ``report show``."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.report.model import State
from tests.cli.test_cli import call
from tests.unit.report.reports import report, row


@pytest.fixture
def forged() -> dict[str, Any]:
    """A report of two platforms, before it is changed."""
    made = report(row("a", systrap=State.PASSED, ptrace=State.PASSED))
    content: dict[str, Any] = json.loads(made.to_json())
    return content


@pytest.mark.parametrize(
    ("hides", "told"),
    [
        ("a row", "has a test twice"),
        ("a cell", "has a platform twice"),
        ("a key", "a key twice"),
        ("another run", "better state than one of its others"),
    ],
)
def test_no_failure_hides_behind_a_pass(
    forged: dict[str, Any], hides: str, told: str, tmp_path: Path
) -> None:
    """A report that tells two states of one test, the better one last, is refused."""
    rows = forged["tests"]
    cells = rows[0]["cells"]
    failed = {**cells[0], "state": "failed"}
    if hides == "a row":
        rows.insert(0, {**rows[0], "cells": [failed]})
    elif hides == "a cell":
        cells.insert(0, failed)
    elif hides == "another run":
        cells[0]["others"] = [{"leg": 0, "state": "failed"}]
    text = json.dumps(forged)
    if hides == "a key":
        text = text.replace('"state": "passed"', '"state": "failed", "state": "passed"')
    (tmp_path / "in.json").write_text(text)
    for command in (["show", "in.json"], ["merge", "in.json", "-o", "out.html"]):
        done = call("report", *command, cwd=tmp_path)
        assert done.returncode == 125
        assert told in done.stderr.decode()
    assert not (tmp_path / "out.html").exists()


def test_the_report_of_one_shard_alone_names_the_others(tmp_path: Path) -> None:
    """The file of the other shard was lost, and the joined report is all that people see."""
    made = report(row("a", systrap=State.PASSED))
    (leg,) = made.legs
    half = dataclasses.replace(made, legs=(dataclasses.replace(leg, shard=1, shards=2),))
    (tmp_path / "1.json").write_text(half.to_json())
    outputs = ["-o", "all.html", "-o", "all.md", "-o", "all.json"]
    assert call("report", "merge", "1.json", *outputs, cwd=tmp_path).returncode == 1
    for name in ("all.html", "all.md"):
        assert "shard 2 of 2 on systrap" in (tmp_path / name).read_text()
    done = call("report", "show", "all.json", cwd=tmp_path)
    assert b"MISSING: shard 2 of 2 on systrap" in done.stdout


def test_no_report_takes_a_column_for_each_of_its_tests(tmp_path: Path) -> None:
    """A small file would become a table of millions of cells."""
    many = report(*(row(f"t{n}", **{f"p{n}": State.PASSED}) for n in range(3000)))
    (tmp_path / "in.json").write_text(many.to_json())
    done = call("report", "merge", "in.json", "-o", "out.html", cwd=tmp_path, timeout=60)
    assert (done.returncode, b"more than 256 platforms" in done.stderr) == (125, True)


def test_a_pipe_that_nobody_writes_to_is_no_report(forged: dict[str, Any], tmp_path: Path) -> None:
    """A pipe in the place of a file hangs nothing; one with a writer is read as ever."""
    os.mkfifo(tmp_path / "in.json")
    done = call("report", "show", "in.json", cwd=tmp_path, timeout=60)
    assert (done.returncode, b"in.json: not JSON" in done.stderr) == (125, True)
    done = call("report", "show", "/dev/stdin", input=json.dumps(forged).encode())
    assert (done.returncode, b"a: systrap passed" in done.stdout) == (0, True)


@pytest.mark.parametrize("kind", ["file", "nowhere"])
def test_a_link_in_the_place_of_the_output_is_replaced(
    kind: str, forged: dict[str, Any], tmp_path: Path
) -> None:
    """The file that it names is neither written nor made."""
    (tmp_path / "in.json").write_text(json.dumps(forged))
    (tmp_path / "file").write_text("kept")
    (tmp_path / "out.json").symlink_to(kind)
    assert call("report", "merge", "in.json", "-o", "out.json", cwd=tmp_path).returncode == 0
    assert (tmp_path / "file").read_text() == "kept"
    assert not (tmp_path / "nowhere").exists()
    assert json.loads((tmp_path / "out.json").read_text())["tests"]

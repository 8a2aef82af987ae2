"""``pytest-gvisor report``: joining the reports of several runs, and printing one."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_gvisor.report.model import Row, State
from pytest_gvisor.report.parse import parse
from tests.cli.test_cli import call
from tests.unit.report.reports import cell, hostile, leg, report, row
from tests.unit.report.test_merging import shard


@pytest.fixture
def legs(tmp_path: Path) -> Path:
    """A folder of three reports from two platforms, one of them twice, and a bad file."""
    one = report(row("a", systrap=State.PASSED), row("b", systrap=State.PASSED))
    two = report(row("a", ptrace=State.FAILED), row("b", ptrace=State.PASSED))
    three = report(row("b", systrap=State.ERROR))
    three = three.__class__(legs=(leg("systrap", version="20260101.0"),), rows=three.rows)
    for name, made in (("one", one), ("two", two), ("three", three)):
        (tmp_path / f"{name}.json").write_text(made.to_json())
    (tmp_path / "bad.json").write_text('{"schema": 99}')
    return tmp_path


def test_legs_are_joined_in_every_form(legs: Path) -> None:
    """Each platform is a column of the merged report; the worse of two cells is shown."""
    done = call(
        "report", "merge", "one.json", "two.json", "three.json",
        "-o", "out/m.html", "-o", "m.md", "--output", "m.json", cwd=legs,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)
    merged = parse((legs / "m.json").read_bytes())
    assert merged.platforms == ("systrap", "ptrace")
    assert [cell.state for cell in merged.rows[1].cells] == [State.ERROR, State.PASSED]
    assert [one.version for leg in merged.legs for one in leg.runsc] == [
        "20240729.0", "20240729.0", "20260101.0"
    ]  # fmt: skip
    assert "| `b` | 💥 error; run 1: passed | ✅ passed |" in (legs / "m.md").read_text()
    assert "runsc 20260101.0" in (legs / "out/m.html").read_text()


def test_a_report_is_printed(legs: Path) -> None:
    """The printed report is pytest's summary and a line a test; hostile text stays in its line."""
    done = call("report", "show", "two.json", cwd=legs)
    assert done.returncode == 0
    first, *rest = done.stdout.decode().splitlines()
    assert first.startswith("ptrace: 1 passed, 1 failed, ")
    assert rest == ["", "a: ptrace failed", "b: ptrace passed"]
    (legs / "h.json").write_text(hostile().to_json())
    done = call("report", "show", "h.json", cwd=legs)
    assert b"\x1b" not in done.stdout
    forged = report(row("a\nkvm: 9 passed", kvm=State.FAILED), row("b\tc", kvm=State.PASSED))
    (legs / "f.json").write_text(forged.to_json())
    shown = call("report", "show", "f.json", cwd=legs).stdout.decode().splitlines()
    assert shown[-2:] == ["a\\nkvm: 9 passed: kvm failed", "b\\tc: kvm passed"]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["merge", "one.json", "bad.json", "-o", "m.html"], 125, "bad.json: schema 99"),
        (["merge", "one.json", "nowhere.json", "-o", "m.html"], 125, "directory: 'nowhere.json'"),
        (["merge", "one.json", "-o", "m.txt"], 125, "ends with none of"),
        (["merge", "one.json", "-o", "one.json/m.html"], 125, "cannot be written"),
        (["show", "."], 125, "Is a directory: '.'"),
        (["merge", "one.json"], 2, "required: -o"),
        ([], 2, "required: ACTION"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    legs: Path, arguments: list[str], status: int, told: str
) -> None:
    """A failed command prints a message without a traceback, and writes nothing."""
    done = call("report", *arguments, cwd=legs)
    assert done.returncode == status
    assert told in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert sorted(path.name for path in legs.iterdir()) == [
        "bad.json", "one.json", "three.json", "two.json"
    ]  # fmt: skip


def test_the_command_names_missing_shards_and_exits_with_1(tmp_path: Path) -> None:
    """The report is written all the same; doubled tests write none."""
    for name, made in (("1", shard(1, "a")), ("3", shard(3, "c")), ("2", shard(2, "a"))):
        (tmp_path / f"{name}.json").write_text(made.to_json())
    done = call("report", "merge", "1.json", "3.json", "-o", "m.json", cwd=tmp_path)
    assert done.stderr == b"pytest-gvisor report: missing: shard 2 of 3 on systrap\n"
    assert done.returncode == 1
    assert len(json.loads((tmp_path / "m.json").read_text())["tests"]) == 2
    done = call("report", "merge", "1.json", "2.json", "-o", "n.json", cwd=tmp_path)
    assert b"a test belongs to one shard" in done.stderr
    assert done.returncode == 125
    assert not (tmp_path / "n.json").exists()


MEASURE = """
import resource, sys
from pytest_gvisor.cli import report
report.main(["merge", *sys.argv[1:], "-o", "all.json"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_million_tests_fit_into_a_gibibyte(tmp_path: Path) -> None:
    """Each test of a merge takes less than a thousandth of a mebibyte."""
    for number in range(1, 13):
        names = [f"tests/test_{number}.py::TestSome::test_a_behaviour[{n}]" for n in range(5000)]
        rows = tuple(
            Row(test=name, cells=(cell("systrap", nodeid=name, command=f"pytest {name}"),))
            for name in names
        )
        made = dataclasses.replace(shard(number, of=12), rows=rows)
        (tmp_path / f"{number}.json").write_text(made.to_json())
    peaks = []
    for count in (2, 12):
        files = [f"{number}.json" for number in range(1, count + 1)]
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *files], cwd=tmp_path, capture_output=True, text=True,
            check=True, timeout=120,
        )  # fmt: skip
        peaks.append(int(done.stdout) * 1024)
    assert (peaks[1] - peaks[0]) / 50_000 < 1000
    found = parse((tmp_path / "all.json").read_bytes())
    assert len(found.rows) == 60_000
    assert found.rows[-1].cells[0].leg == 11

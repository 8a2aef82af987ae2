"""``pytest-gvisor report``: joining the reports of several runs, and printing one."""

from pathlib import Path

import pytest

from pytest_gvisor.report.model import State
from pytest_gvisor.report.parse import parse
from tests.cli.test_cli import call
from tests.unit.report.reports import hostile, leg, report, row


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

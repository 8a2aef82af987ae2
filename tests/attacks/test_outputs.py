"""A workload that puts a link in the way of what pytest-gvisor writes later."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_gvisor.report import outputs
from tests.bundlecheck import ENVIRONMENT

PLANT = """
import os, sys
os.rename("/out/sub", "/out/old")
os.symlink(sys.argv[1], "/out/sub")
"""

TEST = f"""
from pytest_gvisor import bind

def test_plants(gvisor):
    out = bind("build/out", "/out", readonly=False)
    command = ["python3", "-I", "-S", "-c", {PLANT!r}, VICTIM]
    assert gvisor.run(command, mounts=[out]).returncode == 0
"""


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the host that the workload is not shown, with files that must stay."""
    folder = tmp_path / "victim"
    folder.mkdir()
    for name in ("trace.json", "report.json", "report.html"):
        (folder / name).write_text("precious")
    return folder


def unchanged(victim: Path) -> bool:
    """Whether each file is as it was, and there is no other."""
    return {one.read_text() for one in victim.iterdir()} == {"precious"} and (
        len(os.listdir(victim)) == 3
    )


def test_no_trace_lands_through_a_link_of_a_workload_s_making(tmp_path: Path, victim: Path) -> None:
    """The command line's own file goes to the folder that was there at the start, or nowhere."""
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    words = [sys.executable, "-m", "pytest_gvisor", "run", "--trace", out / "sub/trace.json"]
    words += ["--mount", f"{out}:/out:rw", "--", "python3", "-I", "-S", "-c", PLANT, victim]
    done = subprocess.run(
        list(map(str, words)), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120, cwd=tmp_path / "elsewhere", check=False,
    )  # fmt: skip
    assert (out / "sub").is_symlink()
    assert unchanged(victim)
    assert "could not be written" in done.stderr
    assert "a part of its path has become a link" in done.stderr


def test_no_report_lands_through_a_link_of_a_workload_s_making(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, victim: Path
) -> None:
    """The session says that the report could not be written, and fails."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (pytester.path / "build/out/sub").mkdir(parents=True)
    pytester.makepyfile(f"VICTIM = {str(victim)!r}\n{TEST}")
    reports = [f"--gvisor-report=build/out/sub/report.{form}" for form in ("json", "html")]
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *reports)
    result.assert_outcomes(passed=1)
    assert unchanged(victim)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["*report.json could not be written: a part of its path has*"])


def test_a_link_that_is_the_user_s_own_is_followed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A link that is there at the start leads a report to where its user wants it."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (pytester.path / "reports").symlink_to(tmp_path)
    pytester.makepyfile("def test_it(gvisor): pass")
    result = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "--gvisor-report=reports/sub/report.json"
    )
    assert result.ret == 0
    assert os.listdir(tmp_path / "sub") == ["report.json"]


def test_no_report_lands_through_a_link_that_comes_and_goes(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link is there when the folder is opened, and at no look at the path."""
    folder, aside = tmp_path / "out", tmp_path / "aside"
    path = outputs.check(str(folder / "report.json"))
    opened = os.open

    def turned(name: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if name != str(folder):
            return opened(name, flags, mode, dir_fd=dir_fd)
        folder.rename(aside)
        folder.symlink_to(victim)
        fd = opened(name, flags, mode)
        folder.unlink()
        aside.rename(folder)
        return fd

    monkeypatch.setattr(os, "open", turned)
    assert outputs.replaced(path, ["new"]) == "a part of its path has become a link"
    assert unchanged(victim)
    monkeypatch.undo()
    assert outputs.replaced(path, ["new"]) == ""

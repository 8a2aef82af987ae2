"""A pytest that was started in a gVisor sandbox runs its tests in place, and says so."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pytest_gvisor
from pytest_gvisor import Completed, Gvisor, bind
from pytest_gvisor.base import kernel
from pytest_gvisor.report.model import State
from pytest_gvisor.report.parse import parse

PROJECT = """
import os, pytest
from pytest_gvisor import is_gvisor_kernel

def test_plain():
    assert is_gvisor_kernel(os.uname().release)

@pytest.mark.in_gvisor
def test_marked():
    assert is_gvisor_kernel(os.uname().release)

@pytest.mark.gvisor(memory="1G")
def test_limited():
    pass

@pytest.mark.in_gvisor(fresh=True)
def test_fresh():
    pass

def test_uses(gvisor_sandbox):
    pass

@pytest.mark.requires_kvm
@pytest.mark.gvisor(xfail={"systrap": "not known here"})
def test_kvm():
    pass
"""
CHECKOUT = str(Path(pytest_gvisor.__file__).parents[1])
SHOWN = dict.fromkeys(os.path.realpath(one) for one in (CHECKOUT, sys.prefix, sys.base_prefix))
ENVIRONMENT = {"PYTHONPATH": CHECKOUT, "PYTHONDONTWRITEBYTECODE": "1"}
RUN = (os.path.join(os.path.realpath(sys.prefix), "bin/python"), "-m", "pytest", "-rsfE",
       "-p", "no:cacheprovider", "-p", "no:hypothesispytest")  # fmt: skip
REASON = "this process is already inside gVisor (kernel "

Pytest = Callable[..., Completed]


@pytest.fixture
def run(gvisor: Gvisor, tmp_path: Path) -> Iterator[Pytest]:
    """Runs the project by a pytest that is a program of a warm sandbox."""
    (tmp_path / "test_it.py").write_text(PROJECT)
    mounts = [bind(path, path) for path in SHOWN if not path.startswith("/usr")]
    with gvisor.sandbox(mounts=[*mounts, bind(tmp_path, "/p", readonly=False)]) as sandbox:

        def start(*arguments: str, command: tuple[str, ...] = RUN) -> Completed:
            return sandbox.exec([*command, *arguments], cwd="/p", env=ENVIRONMENT, timeout=50)

        yield start


def test_tests_run_in_place_and_header_and_report_say_so(run: Pytest, tmp_path: Path) -> None:
    """A sandbox of their own is what only some tests ask for: those do not run, with the reason."""
    done = run("-o", "in_gvisor=true", "--gvisor-report=r.json", "--gvisor-report=r.html",
               "--gvisor-report=r.md", "--junitxml=junit.xml")  # fmt: skip
    assert "2 passed, 4 skipped" in done.stdout, done
    assert "gvisor: ALREADY INSIDE gVisor (kernel " in done.stdout
    assert "platform unknown): the tests run in place" in done.stdout
    assert f"platform systrap is not available here: {REASON}" in done.stdout
    assert "no sandbox in a sandbox; asked for: memory" in done.stdout
    report = parse((tmp_path / "r.json").read_bytes())
    cells = {row.test.partition("::")[2]: row.cells[0] for row in report.rows}
    ran = {name for name, cell in cells.items() if cell.state is State.PASSED}
    assert ran == {"test_plain", "test_marked"}
    assert {cells[name].platform for name in ran} == {"in-place"}
    assert cells["test_plain"].command == "python -m pytest test_it.py::test_plain --in-gvisor"
    assert {cells[name].state for name in cells.keys() - ran} == {State.UNAVAILABLE}
    assert report.legs[0].inside.startswith("gVisor (kernel ")
    for form in ("r.html", "r.md"):
        text = (tmp_path / form).read_text()
        assert "already inside" in text
        assert "in-place" in text
    assert 'name="gvisor.platform" value="in-place"' in (tmp_path / "junit.xml").read_text()


def test_who_asks_for_a_sandbox_gets_no_silent_pass(run: Pytest) -> None:
    """Missing sandboxes fail if strict, or asked for by option; native is refused."""
    done = run("--in-gvisor", "--gvisor-strict")
    assert "2 passed, 4 errors" in done.stdout, done
    assert done.stdout.count(f"is not available here: {REASON}") >= 4
    done = run("--in-gvisor", "--gvisor-platform=systrap,ptrace", "-k", "plain")
    assert "2 errors" in done.stdout, done
    assert f"platform ptrace is not available here: {REASON}" in done.stdout
    done = run("-o", "in_gvisor=true", "--gvisor-platform=systrap,ptrace", "-k", "plain")
    assert "2 skipped" in done.stdout, done
    assert "NOTHING RAN UNDER GVISOR" in done.stdout
    done = run("--in-gvisor", "--gvisor-platform=native,systrap")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "the platform native is the host, and this pytest is inside gVisor" in done.stderr


def test_without_gvisor_the_tests_run_as_ever(run: Pytest) -> None:
    """`--no-gvisor` leaves the markers' settings aside, and the header names the kernel still."""
    done = run("--in-gvisor", "--no-gvisor")
    assert "4 passed, 2 skipped" in done.stdout, done
    assert "gvisor: --no-gvisor: the tests run on gVisor (kernel " in done.stdout


def test_doctor_says_that_this_is_a_sandbox(run: Pytest) -> None:
    """And with which option tests run there."""
    done = run("doctor", command=(RUN[0], "-m", "pytest_gvisor"))
    assert done.returncode == 1
    assert "NO gVisor            this process is already inside gVisor (kernel " in done.stdout
    assert "`pytest --in-gvisor` runs tests in place" in done.stdout


@pytest.mark.parametrize(
    ("release", "version", "inside"),
    [
        ("4.4.0", "#1 SMP Sun Jan 10 15:06:54 PST 2016", True),
        ("4.19.0-gvisor", "#1 SMP Sun Jan 10 15:06:54 PST 2016", True),
        ("6.1.0-gvisor", "another", True),
        ("4.4.0", "#1 SMP PREEMPT Mon Feb 1 2016", False),
        ("6.1.0-18-amd64", "#1 SMP Sun Jan 10 15:06:54 PST 2016", False),
    ],
)
def test_a_kernel_is_told_by_its_name(release: str, version: str, *, inside: bool) -> None:
    """A host of 2016 may have a kernel 4.4.0 too, and another version of it."""
    found = kernel.named_sandbox(os.uname_result(("Linux", "host", release, version, "x86_64")))
    assert found == (f"gVisor (kernel {release}, platform unknown)" if inside else "")

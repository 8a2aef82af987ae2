"""Sandboxes of tests inside that begin as copies of one that was saved before any conftest.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

RunInside = Callable[..., pytest.RunResult]

INSIDE = "import os, time\nfrom pytest_gvisor import is_gvisor_kernel\n"
INSIDE += "inside = is_gvisor_kernel(os.uname().release)\n"
COPIES = "gvisor: {} of tests inside began as copies of a saved one"
NONE = "gvisor: sandboxes of tests inside did not begin as copies: *{}*"


def test_a_copy_is_a_sandbox_of_its_own(project: pytest.Pytester, run_inside: RunInside) -> None:
    """Each copy has an empty /tmp, random numbers and temporary names of its own, and the time."""
    project.makepyfile(
        INSIDE
        + """
import random, tempfile
import pytest

@pytest.mark.parametrize("number", range(3))
def test_it(number, tmp_path, record_property):
    assert inside
    assert not os.path.exists("/tmp/made")
    open("/tmp/made", "w").close()
    name = os.path.basename(tempfile.mktemp())
    record_property("drawn", f"{random.random()} {name} {time.time()}")
"""
    )
    project.makeconftest(
        """
        def pytest_runtest_logreport(report):
            for _name, value in report.user_properties if report.when == "call" else ():
                with open("drawn", "a") as file:
                    print(value, file=file)
        """
    )
    result = run_inside("-v", "--gvisor-isolation=test")
    assert result.parseoutcomes() == {"passed": 3}
    result.stdout.fnmatch_lines(
        [COPIES.format("2 sandboxes"), "*3 passed, sandboxes start in * ms*"]
    )
    lines = (project.path / "drawn").read_text().splitlines()
    numbers, names, times = zip(*(line.split() for line in lines), strict=True)
    assert len({*numbers}) == len({*names}) == 3
    modified = (project.path / "drawn").stat().st_mtime
    assert all(abs(float(moment) - modified) < 60 for moment in times)
    assert [*times] == sorted(times)


EARLY = (
    INSIDE
    + """
if inside:
    import helper
    seen = os.listdir("."), os.path.exists("late.txt"), open("data.txt").read()
    held = open("held.txt") if os.path.exists("held.txt") else None
"""
)


@pytest.mark.parametrize(("held", "count"), [(False, "2 sandboxes"), (True, "1 sandbox")])
def test_a_copy_sees_the_files_that_the_host_has_now(
    project: pytest.Pytester, count: str, *, held: bool
) -> None:
    """Neither contents nor names of before count, though a plugin has read them before the gate.

    gVisor keeps the names in a folder in which a file is open: where they have changed, there is no
    copy.
    """
    for name in ("data.txt", "gone.txt"):
        (project.path / name).write_text("old")
    if held:
        (project.path / "held.txt").write_text("held")
    project.makepyfile(
        early_plugin=EARLY,
        helper="value = 'old'",
        test_it="""
import os
import pytest

def check(data, value):
    import helper, early_plugin
    assert early_plugin.seen[1:] == (False, "old") or data == "new"
    assert early_plugin.held is None or early_plugin.held.read() == "held"
    assert open("data.txt").read() == data
    assert helper.value == value

@pytest.mark.in_gvisor(fresh=True)
def test_first():
    assert not os.path.exists("late.txt")
    check("old", "old")

def test_host():
    open("data.txt", "w").write("new")
    open("late.txt", "w").write("late")
    os.unlink("gone.txt")

@pytest.mark.in_gvisor(fresh=True)
def test_copy():
    assert open("late.txt").read() == "late"
    assert "late.txt" in os.listdir(".") and "gone.txt" not in os.listdir(".")
    assert not os.path.exists("gone.txt")
    check("new", "old")

def test_host_again():
    open("helper.py", "w").write("value = 'newer'")

@pytest.mark.in_gvisor(fresh=True)
def test_fresh():
    check("new", "newer")

@pytest.mark.in_gvisor(fresh=True)
def test_copy_of_that():
    check("new", "newer")
""",
    )
    result = project.runpytest_subprocess(
        "-v", "--gvisor-strict", "-p", "no:cacheprovider", "-p", "early_plugin"
    )
    assert result.parseoutcomes() == {"passed": 6}
    result.stdout.fnmatch_lines([COPIES.format(count)])
    result.stdout.fnmatch_lines([NONE.format("files of the project had changed")])


DAMAGE = {
    "cut off": "os.truncate(path, os.path.getsize(path) // 2)",
    "gone": "os.unlink(path)",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_saved_sandbox_that_is_broken_costs_nothing_but_time(
    damage: str, project: pytest.Pytester, run_inside: RunInside
) -> None:
    """The test begins in another way, as if nothing had been saved; `-v` says why."""
    project.makeconftest(
        INSIDE
        + f"""
def pytest_runtest_logreport(report):
    if inside or report.when != "teardown":
        return
    import gc
    from pytest_gvisor.inside.copies import Copies
    for copies in (found for found in gc.get_objects() if isinstance(found, Copies)):
        for saved in copies._saved:
            for name in os.listdir(saved.folder):
                path = os.path.join(saved.folder, name)
                {DAMAGE[damage]}
"""
    )
    project.makepyfile(
        INSIDE + "def test_a(): assert inside\ndef test_b(): assert inside\n"
        "def test_c(): assert inside\n"
    )
    result = run_inside("-v", "--gvisor-isolation=test")
    assert result.parseoutcomes() == {"passed": 3}
    result.stdout.fnmatch_lines([NONE.format("")])
    result.stdout.no_fnmatch_line(COPIES.format("*"))


def test_a_death_in_a_copy_is_that_tests(project: pytest.Pytester, run_inside: RunInside) -> None:
    """An exit, a hang and a killed sandbox are reported with phase and cause, as elsewhere."""
    project.makepyfile(
        """
        import os, time

        def test_first(): pass
        def test_exits(): os._exit(3)
        def test_dies(): os.kill(os.getpid(), 9)
        def test_ends_the_first_process(): os.kill(1, 9); time.sleep(50)
        def waits_for_ever(): time.sleep(1000)
        def test_hangs(): waits_for_ever()
        def test_last(): pass
        """
    )
    result = run_inside("-v", "--gvisor-isolation=test", "--gvisor-timeout=6")
    assert result.parseoutcomes() == {"passed": 2, "failed": 4}
    result.stdout.fnmatch_lines(
        ["*lost in this test's call*", "*exit status 3*", "*lost in this test's call*",
         "*signal 9, status 137*", "*did not end within 6 s*", "*in waits_for_ever*",
         COPIES.format("5 sandboxes")],
    )  # fmt: skip


def test_each_module_collects_its_own_files_alone(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """A file that the command line names is not loaded in the sandbox of another one."""
    for name in "abc":
        other = {"a": "b", "b": "c", "c": "a"}[name]
        (project.path / f"test_{name}.py").write_text(
            f"import sys\ndef test_it(): assert 'test_{other}' not in sys.modules\n"
        )
    result = run_inside("-v", "--gvisor-isolation=module", "test_a.py", "test_b.py", "test_c.py")
    assert result.parseoutcomes() == {"passed": 3}
    result.stdout.fnmatch_lines([COPIES.format("2 sandboxes")])


def test_nothing_is_saved_on_a_network(project: pytest.Pytester, run_inside: RunInside) -> None:
    """Its sockets could not go on; `-v` says so."""
    project.makepyfile("def test_a(): pass\ndef test_b(): pass\n")
    result = run_inside("-v", "--gvisor-isolation=test", "--gvisor-network=host")
    assert result.parseoutcomes() == {"passed": 2}
    result.stdout.fnmatch_lines([NONE.format("network=host")])

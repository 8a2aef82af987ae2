"""Hints of tests inside that lack something of the host, by the text of the failure.

The remedy is pasted. Tracebacks have no frame of ours.
"""

import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

TEST = """
import socket, pytest

def test_service():
    socket.create_connection(("127.0.0.1", {port})).close()

def test_fixture(broken):
    pass
"""
TOLD = (
    "This sandbox has no network, and its 127.0.0.1 is its own. To have the host's: "
    "--gvisor-network=host (or ini gvisor_network)"
)
NO_DATABASE = (
    "of the host's folders, tests inside see the project and those of imports.",
    "If the database lies elsewhere: --gvisor-readable=FOLDER (or ini gvisor_readable)",
)
CONFTEST = """
import pytest

@pytest.fixture
def broken():
    raise ValueError("mine")
"""


def test_a_service_of_the_host_is_out_of_reach_and_the_remedy_is_named(
    project: pytest.Pytester, run_inside: Callable[..., pytest.RunResult]
) -> None:
    """The hint is whole, and the option in it lets the same test pass."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        project.makepyfile(TEST.format(port=service.getsockname()[1]))
        project.makeconftest(CONFTEST)
        failed = run_inside()
        failed.assert_outcomes(failed=1, errors=1)
        failed.stdout.fnmatch_lines(["*- gvisor: network -*", TOLD])
        run_inside("--gvisor-network=host", "-k", "test_service").assert_outcomes(passed=1)
    text = failed.stdout.str()
    assert "value = yield" not in text
    assert text.count("gvisor: network") == 1


def pasted(failed: pytest.RunResult) -> list[str]:
    """The options that a failure's hints name."""
    lines = [line for line in failed.outlines if " (or ini gvisor_" in line]
    return [word for line in lines for word in re.sub(r"^.*?: | \(or .*", "", line).split()]


def test_a_database_in_a_folder_that_is_not_shown_has_the_option(
    project: pytest.Pytester, run_inside: Callable[..., pytest.RunResult], tmp_path: Path
) -> None:
    """The folder counts, which a path in the failure names. Without one the hint is general."""
    project.makepyfile(
        f"""
        import sqlite3

        def test_named():
            sqlite3.connect("{tmp_path}/new.db").execute("create table a (b)")

        def test_not_named(pytestconfig):
            folder = pytestconfig.rootpath.parent / "elsewhere"
            sqlite3.connect(folder / "new.db").execute("create table a (b)")
        """
    )
    (project.path.parent / "elsewhere").mkdir()
    failed = run_inside("-k", "test_named")
    failed.assert_outcomes(failed=1, deselected=1)
    failed.stdout.fnmatch_lines([
        "*- gvisor: files -*",
        f"{tmp_path} is on the host, and is not shown to tests inside.",
        f"To show: --gvisor-readable={tmp_path} (or ini gvisor_readable)",
    ])  # fmt: skip
    run_inside("-k", "test_named", *pasted(failed)).assert_outcomes(passed=1, deselected=1)
    failed = run_inside("-k", "test_not_named", "--tb=line")
    failed.stdout.fnmatch_lines(["*- gvisor: files -*", *NO_DATABASE])
    (option,) = pasted(failed)
    filled = option.replace("FOLDER", str(project.path.parent / "elsewhere"))
    run_inside("-k", "test_not_named", filled).assert_outcomes(passed=1, deselected=1)


def test_a_module_in_a_folder_that_is_not_shown_has_the_option(
    project: pytest.Pytester, run_inside: Callable[..., pytest.RunResult], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """`python -m pytest` has the folder of its start on sys.path; a home folder is not shown."""
    (tmp_path / "mine_alone.py").touch()
    home = f"from pytest_gvisor.oci import skeleton\nskeleton.home = lambda: {str(tmp_path)!r}\n"
    project.makeconftest(home)
    monkeypatch.chdir(tmp_path)
    project.makepyfile("def test_it(): import mine_alone")
    place = f"--rootdir={project.path}", str(project.path)
    run_inside("--no-gvisor", *place).assert_outcomes(passed=1)
    failed = run_inside(*place)
    failed.assert_outcomes(failed=1)
    path = tmp_path / "mine_alone.py"
    failed.stdout.fnmatch_lines([
        "*- gvisor: files -*",
        f"{path} is on the host, and is not shown to tests inside.",
        f"To show: --gvisor-readable={path} (or ini gvisor_readable)",
    ])  # fmt: skip
    run_inside(*place, *pasted(failed)).assert_outcomes(passed=1)


def test_a_library_of_a_variable_that_is_held_back_has_both_options(
    project: pytest.Pytester, run_inside: Callable[..., pytest.RunResult], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One shows the library, and one passes on LD_LIBRARY_PATH, where the host finds it."""
    project.path.joinpath("mine.c").write_text("int mine;")
    library = tmp_path / "libmine.so"
    subprocess.run(["cc", "-shared", "-o", library, "mine.c"], cwd=project.path, check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    project.makepyfile("import ctypes\ndef test_it(): ctypes.CDLL('libmine.so')")
    run_inside("--no-gvisor").assert_outcomes(passed=1)
    failed = run_inside()
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines([
        "*- gvisor: environment -*",
        "the test looked for LD_LIBRARY_PATH: set on the host, and held back from tests inside.",
        "To pass on: --gvisor-env LD_LIBRARY_PATH (or ini gvisor_env)",
        "*- gvisor: files -*",
        f"{library} is on the host, and is not shown to tests inside.",
        f"To show: --gvisor-readable={library} (or ini gvisor_readable)",
    ])  # fmt: skip
    run_inside(*pasted(failed)).assert_outcomes(passed=1)

"""Files that tests inside write, and that come back to the host."""

import sys
import tempfile
from pathlib import Path

import pytest

from tests.inside.conftest import inside


def test_files_below_basetemp_and_named_ones_come_back(
    project: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Files of a pytest that died do too; other ones are counted, and -v names them."""
    base = tmp_path_factory.mktemp("base")
    project.makeini(
        "[pytest]\ngvisor_returns =\n    out.json\n    exact.sh\n    gen\n    res/**/*.xml\n"
    )
    project.makepyfile(
        """
        import os

        def test_writes(tmp_path):
            (tmp_path / "deep").mkdir()
            (tmp_path / "deep/a.py").write_text("a")
            for name in ("out.json", "exact.sh", "gen/x/g.csv", "gen/g.py", "res/b/c/r.xml",
                         "res/r.txt", "other.txt"):
                os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
                with open(name, "w") as file:
                    file.write(name)
                os.chmod(name, 0o777)

        def test_dies(tmp_path):
            (tmp_path / "last.words").write_text("b")
            os._exit(3)

        def test_goes_on(tmp_path):
            (tmp_path / "c.txt").write_bytes(b"c" * 3_000_000)
        """
    )
    project.makeconftest(
        """
        import os

        if "PYTEST_GVISOR_INSIDE" in os.environ:
            def pytest_terminal_summary():
                raise RuntimeError("nobody sees it")

            def pytest_unconfigure():
                os.makedirs("gen", exist_ok=True)
                with open("gen/last.json", "w") as file:
                    file.write("gen/last.json")
        """
    )
    result = inside(project, "-v", f"--basetemp={base}")
    assert result.parseoutcomes() == {"passed": 2, "failed": 1}
    result.stdout.fnmatch_lines(
        [
            "*it ended with: exited (exit status 3)",
            "gvisor: 8 files came back from inside",
            "gvisor: 2 other files that tests wrote in the project stayed inside*",
            "gvisor:   *res/r.txt",
            "gvisor: *gen/g.py stayed inside: *gvisor_returns*",
        ],
        consecutive=False,
    )
    here = project.path
    for name in ("out.json", "exact.sh", "gen/x/g.csv", "res/b/c/r.xml", "gen/last.json"):
        assert (here / name).read_text() == name
        assert not (here / name).stat().st_mode & 0o111
    assert not [name for name in ("gen/g.py", "res/r.txt", "other.txt") if (here / name).exists()]
    found = {str(path.relative_to(base)): path for path in base.rglob("*") if path.is_file()}
    assert set(found) == {
        "test_writes0/deep/a.py", "test_dies0/last.words", "sandbox-2/test_goes_on0/c.txt",
    }  # fmt: skip
    assert found["sandbox-2/test_goes_on0/c.txt"].read_bytes() == b"c" * 3_000_000


@pytest.mark.parametrize("workers", [False, True])
def test_the_folder_of_a_failed_test_is_where_its_report_says(
    workers: bool,
    project: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Without ``--basetemp`` too, and of a test that died; a test that passes leaves nothing.

    One that removes its folder takes no other's files along.
    """
    root = tmp_path_factory.mktemp("root")
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(root))
    project.makepyfile(
        """
        import os, pytest

        @pytest.mark.parametrize("way", ["passes", "removes", "fails", "dies"])
        def test_it(tmp_path, way):
            if way == "removes":
                tmp_path.rmdir()
                raise AssertionError
            (tmp_path / "file").write_text(way)
            if way == "fails":
                raise AssertionError(tmp_path / "file")
            if way == "dies":
                os._exit(1)
        """
    )
    arguments = ["--in-gvisor", "--gvisor-strict", "-p", "no:cacheprovider"]
    result = project.run(sys.executable, "-mpytest", *arguments, *["-n1"] * workers)
    assert result.parseoutcomes() == {"passed": 1, "failed": 3}
    result.stdout.no_fnmatch_line("*did not answer*")
    found = sorted((path.read_text(), path) for path in root.rglob("file"))
    (_dies, _), (fails, path) = found
    assert (_dies, fails) == ("dies", "fails")
    result.stdout.fnmatch_lines([f"*AssertionError: {path}"])
    result.stdout.fnmatch_lines(["gvisor: 2 files came back from inside"])


def test_two_sandboxes_that_differ_are_an_error(project: pytest.Pytester) -> None:
    """The error names both, and the session fails, although each test passes."""
    project.makeini("[pytest]\ngvisor_returns =\n    out.json\n    same.json\n")
    body = "def test_it():\n    open('out.json', 'w').write({!r})\n    open('same.json', 'w')\n"
    project.makepyfile(test_one=body.format("1"), test_two=body.format("2"))
    result = inside(project, "--gvisor-isolation=module")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"passed": 2}
    result.stdout.fnmatch_lines(
        ["gvisor: ERROR: *out.json *: from test_one.py::test_it and test_two.py::test_it"]
    )
    assert not (project.path / "out.json").exists()
    assert (project.path / "same.json").exists()


def test_files_of_output_options_are_those_of_the_host(project: pytest.Pytester) -> None:
    """A log reads as on the host, and snapshots come with the option that updates them.

    The options stand in for those of syrupy and pytest-regressions, by their names.
    """
    project.makeconftest(
        """
        def pytest_addoption(parser):
            parser.addoption("--snapshot-update", action="store_true", dest="update_snapshots")
            parser.addoption("--force-regen", action="store_true", dest="force_regen")
        """
    )
    project.makepyfile(
        test_it="""
        import logging, os

        def test_one():
            logging.getLogger().warning("one \u00e9")
            for folder in ("deep/__snapshots__", "test_it"):
                os.makedirs(folder, exist_ok=True)
                with open(f"{folder}/it.ambr", "w") as file:
                    file.write("x")

        def test_two():
            logging.getLogger().warning("two")
        """
    )
    log, snapshots = project.path / "logs/it.log", ["deep/__snapshots__/it.ambr", "test_it/it.ambr"]
    options = ("--log-file=logs/it.log", "--log-file-format=%(message)s")
    assert inside(project, *options).parseoutcomes() == {"passed": 2}
    assert log.read_text() == "one \u00e9\ntwo\n"
    assert not any((project.path / name).exists() for name in snapshots)
    inside(project, "--snapshot-update", "--force-regen", "--no-gvisor", *options)
    host = log.read_text(), [(project.path / name).read_text() for name in snapshots]
    for name in snapshots:
        (project.path / name).unlink()
    updated = inside(project, "--snapshot-update", "--force-regen", *options)
    assert updated.parseoutcomes() == {"passed": 2}
    assert (log.read_text(), [(project.path / name).read_text() for name in snapshots]) == host


def test_files_of_a_project_outside_of_tmp_come_back(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty /tmp of the root file system is a mount of runsc's own, apart from the overlay."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder, "pytest.ini").write_text("[pytest]\ngvisor_returns = out.json\n")
        Path(folder, "test_it.py").write_text("def test(): open('out.json', 'w').write('mine')\n")
        monkeypatch.chdir(folder)
        assert inside(project).parseoutcomes() == {"passed": 1}
        assert Path(folder, "out.json").read_text() == "mine"
        monkeypatch.undo()

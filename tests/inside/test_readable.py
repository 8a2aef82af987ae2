"""Files and folders of the host that tests inside see, beside their project."""

import zipfile
from pathlib import Path

import pytest

from tests.inside.conftest import inside

# An editable package as setuptools has it: a finder with a table, which a .pth file installs.
FINDER = """
import sys
from importlib.util import spec_from_file_location

MAPPING = {{"editable": {folder!r}}}
NAMESPACES = {{}}

class _EditableFinder:
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname in MAPPING:
            return spec_from_file_location(fullname, MAPPING[fullname] + "/__init__.py")

sys.meta_path.append(_EditableFinder)
"""


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the host, beside the project."""
    return tmp_path_factory.mktemp("host")


def test_packages_and_what_was_asked_for_are_seen(
    project: pytest.Pytester, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editable package and a zip file are found, and named in the header; writes stay inside."""
    (host / "src/editable").mkdir(parents=True)
    (host / "src/editable/__init__.py").write_text("NAME = 'editable'\n")
    (host / "src/secret").touch()
    with zipfile.ZipFile(host / "lib.zip", "w") as file:
        file.writestr("zipped.py", "NAME = 'zipped'\n")
    monkeypatch.setenv("PYTHONPATH", str(host / "lib.zip"))
    for name in ("data/file", "more.txt", "other.txt"):
        (host / name).parent.mkdir(exist_ok=True)
        (host / name).write_text("of the host")
    finder = FINDER.format(folder=str(host / "src/editable"))
    project.makepyfile(__editable___mine_finder=finder)
    project.makeconftest("import __editable___mine_finder\n")
    project.makeini(f"[pytest]\ngvisor_readable =\n    {host}/more.*\n")
    project.makepyfile(
        f"""
        import os, editable, zipped
        HOST = {str(host)!r}

        def test_packages():
            assert (editable.NAME, zipped.NAME) == ("editable", "zipped")
            assert not os.path.exists(HOST + "/src/secret")

        def test_files():
            for name in ("data/file", "more.txt"):
                with open(f"{{HOST}}/{{name}}", "r+") as file:
                    assert file.read() == "of the host"
                    file.write(", changed")
            assert not os.path.exists(HOST + "/other.txt")
        """
    )
    result = inside(project, f"--gvisor-readable={host}/data")
    assert result.parseoutcomes() == {"passed": 2}
    result.stdout.fnmatch_lines(
        [f"gvisor: packages shown beside sys.path: {host}/lib.zip, {host}/src/editable"]
    )
    assert (host / "data/file").read_text() == "of the host"


def test_a_failure_names_what_is_not_shown_and_the_option(
    project: pytest.Pytester, host: Path
) -> None:
    """A link out of the project, a path elsewhere, and the collection's failure."""
    (host / "file").touch()
    (project.path / "link").symlink_to(host)
    project.makepyfile(
        test_link="def test_link(): open('link/file')\n",
        test_path=f"def test_path(): open({str(host / 'file')!r})\n",
        test_collected=f"open({str(host / 'file')!r})\ndef test_it(): pass\n",
        test_other="def test_other(): open('missing')\n",
    )
    result = inside(project, "-rN")
    assert result.parseoutcomes() == {"failed": 3, "errors": 1}
    told = [line for line in result.outlines if "is on the host" in line or "is a link" in line]
    path = f"{host}/file is on the host, and is not shown to tests inside."
    link = f"link is a link on the way to {host}/file, which is not shown to tests inside."
    assert sorted(told) == sorted([path, path, f"{project.path}/{link}"])
    assert f"To show: --gvisor-readable={host}/file (or ini gvisor_readable)" in result.outlines
    result = inside(project, "-rN", f"--gvisor-readable={host}/file", "-k", "not other")
    assert result.parseoutcomes() == {"passed": 3, "deselected": 1}


@pytest.mark.parametrize("name", ["data", "alias"])
def test_what_becomes_a_link_is_followed_for_no_later_sandbox(
    project: pytest.Pytester, host: Path, name: str
) -> None:
    """Another user whose folder it lies in may show the tests inside a folder of this user's."""
    for folder in ("data", "secret"):
        (host / folder).mkdir()
        (host / folder / folder).touch()
    (host / "alias").symlink_to("data")
    project.makeconftest(
        f"""
        import contextlib, os

        def pytest_runtest_logfinish():
            with contextlib.suppress(OSError):
                os.rename("{host}/{name}", "{host}/before")
                os.symlink("{host}/secret", "{host}/{name}")
        """
    )
    project.makepyfile(
        f"""
        import os, pytest

        @pytest.mark.parametrize("number", range(3))
        def test_it(number):
            assert os.listdir("{host}/{name}") == ["data"]
        """
    )
    result = inside(project, "--gvisor-isolation=test", f"--gvisor-readable={host}/{name}")
    outcomes = result.parseoutcomes()  # a sandbox may have been started before its turn
    assert "failed" not in outcomes
    assert ("errors" in outcomes) == (name == "data")


def test_of_a_home_folder_no_name_with_a_dot_is_seen(
    project: pytest.Pytester, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it was asked for itself, or lies on ``sys.path``; links are there and lead nowhere."""
    for name in (".ssh/id", ".config/tool/file", ".venv/lib/module.py", "work/.hidden", "notes"):
        (host / name).parent.mkdir(parents=True, exist_ok=True)
        (host / name).touch()
    (host / "link").symlink_to(host / ".ssh")
    monkeypatch.setenv("HOME", str(host))
    monkeypatch.setenv("PYTHONPATH", str(host / ".venv/lib"))
    project.makepyfile(
        f"""
        import os, module
        HOME = {str(host)!r}

        def test_it():
            assert set(os.listdir(HOME)) == {{".config", ".venv", "link", "notes", "work"}}
            assert os.listdir(HOME + "/.config") == ["tool"]
            assert os.listdir(HOME + "/work") == [".hidden"]
            assert os.readlink(HOME + "/link") == HOME + "/.ssh"
            assert not os.path.exists(HOME + "/link")
        """
    )
    result = inside(project, f"--gvisor-readable={host}", "--gvisor-readable=~/.config/tool")
    assert result.parseoutcomes() == {"passed": 1}


def test_a_root_folder_that_is_too_wide_is_an_error_of_the_test(project: pytest.Pytester) -> None:
    """The error names a remedy, and the session ends as any other."""
    project.makepyfile("def test_it(): pass")
    result = inside(project, "--rootdir=/home")
    assert (result.parseoutcomes(), result.ret) == ({"errors": 1}, pytest.ExitCode.TESTS_FAILED)
    result.stdout.fnmatch_lines(["*would need all of /home *", "Set --rootdir to a folder of *"])


def test_tests_start_in_a_folder_that_is_not_shown(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``--rootdir`` to the project, pytest may be started in ``/``; its files are not seen."""
    project.makepyfile(
        """
        import os

        def test_it():
            assert os.getcwd() == "/"
            assert open("etc/hostname").read() == "gvisor\\n"
        """
    )
    monkeypatch.chdir("/")
    result = inside(project, f"--rootdir={project.path}", str(project.path))
    assert result.parseoutcomes() == {"passed": 1}

"""Programs that cannot be started, and files that are on the host alone."""

import dataclasses
from pathlib import Path

import pytest

from pytest_gvisor import bind, tmpfs
from pytest_gvisor.oci.defaults import default_spec
from pytest_gvisor.oci.project import Project
from pytest_gvisor.oci.spec import Mount, Spec
from pytest_gvisor.run import not_started
from pytest_gvisor.run.not_started import AT_SHELL, Asker

BEFORE = "running container: starting container: starting root container: starting sandbox: "
IN_PATH = BEFORE + 'error finding executable "nope" in PATH [/usr/bin /bin]: no such file'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system with two programs."""
    folder = tmp_path / "root"
    (folder / "usr/bin").mkdir(parents=True)
    for name in ("python3", "prettify"):
        (folder / "usr/bin" / name).touch()
    return folder


def spec(root: Path, *args: str, cwd: str = "/", mounts: tuple[Mount, ...] = ()) -> Spec:
    """A specification with this root, argv and mounts alone."""
    made = default_spec(list(args), root_path=str(root), cwd=cwd)
    return dataclasses.replace(made, mounts=mounts)


def loaded(path: str, cause: str) -> list[str]:
    """The record of runsc for a program that it has found and cannot load."""
    return [f"{BEFORE}creating process: failed to load {path}: {cause}"]


def test_another_failure_is_another_error(root: Path) -> None:
    """Only runsc's two sentences on a program count, and only its last record."""
    whole = spec(root, "nope")
    assert not_started.error_of([], whole) is None
    assert not_started.error_of([IN_PATH], None) is None
    assert not_started.error_of([IN_PATH, BEFORE + "creating gofer"], whole) is None


def test_a_script_that_is_shown_lacks_its_interpreter(root: Path, tmp_path: Path) -> None:
    """A program that the sandbox has and cannot find lacks what its first line names."""
    script = tmp_path / "script"
    script.write_text("#!/no/such\n")
    shown = spec(root, str(script), mounts=(bind(tmp_path, tmp_path),))
    found = not_started.error_of(loaded(str(script), "no such file or directory"), shown)
    assert found is not None
    assert str(found).endswith("was not found in the sandbox, or the interpreter in its first line")


def test_a_script_below_a_link_of_the_root_is_shown(root: Path, tmp_path: Path) -> None:
    """The mounts are at the places that links lead to, and the argument has the link's path."""
    (tmp_path / "script").write_text("#!/no/such\n")
    (root / "home").symlink_to("var/home")
    shown = spec(root, "/home/p/script", mounts=(bind(tmp_path, "/var/home/p"),))
    found = not_started.error_of(loaded("/home/p/script", "no such file or directory"), shown)
    assert found is not None
    assert str(found).endswith("was not found in the sandbox, or the interpreter in its first line")


def test_a_file_of_the_host_alone_has_a_hint(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An argument counts if it names a file here, and the sandbox starts without one there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tool.py").touch()
    (tmp_path / "tests").mkdir()
    tool = str(tmp_path / "tool.py")
    for args in ([tool], ["x", "tool.py"], ["x", "./tool.py"]):
        assert not_started.hint(spec(root, *args)).startswith(f'"{tool}" exists here but not in ')
    secret = tmp_path / "key.pem"
    secret.touch(mode=0o640)
    covered = (bind(tmp_path, tmp_path), tmpfs(str(tmp_path)))
    assert not_started.hint(spec(root, tool, mounts=covered[1:]))
    for unsuspicious in (
        spec(root, tool, mounts=(tmpfs("/tmp"), *covered[:1])),
        spec(root, "tool.py", cwd=str(tmp_path), mounts=covered[:1]),
        spec(root, "x", "tests", "-tool.py", "a\0b", "/" + "x" * 5000, f"{tmp_path}/none"),
        spec(root, "/usr/bin/python3"),
        spec(root, str(secret)),
        spec(root, "/"),
    ):
        assert not_started.hint(unsuspicious) == ""
    assert not_started.hint(None) == ""


def test_a_file_of_the_project_may_come_with_the_whole_of_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting is proposed for a file of the project alone, and for none in a whole folder."""
    monkeypatch.chdir(tmp_path)
    project = tmp_path / "project"
    project.mkdir()
    for folder in (tmp_path, project):
        (folder / "tool.py").touch()
    setting = "gvisor_project = true in the ini file."
    inner, outer = spec(root, f"{project}/tool.py"), spec(root, f"{tmp_path}/tool.py")
    shown = Asker(project=Project(root=str(project)))
    assert not_started.hint(inner, shown).endswith(setting)
    (project / "secret.pem").touch()
    for found in (
        not_started.hint(outer, shown),
        not_started.hint(inner),
        not_started.hint(inner, Asker(project=Project(root="/"))),
        not_started.hint(spec(root, f"{project}/secret.pem"), shown),
        not_started.hint(spec(root, "tool.py", cwd="/tmp"), shown),
    ):
        assert found.endswith(" to the call."), found


def test_no_more_is_to_be_shown_than_is_needed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the project comes with its folder, and any other one alone, as in a home folder."""
    (tmp_path / "project").mkdir()
    for name in ("project/tool.py", "other.py"):
        (tmp_path / name).touch()
    project, other = str(tmp_path / "project"), str(tmp_path / "other.py")
    monkeypatch.chdir(tmp_path / "project")
    assert f"mounts={{{project!r}: " in not_started.hint(spec(root, "tool.py"))
    assert f"mounts={{{other!r}: " in not_started.hint(spec(root, other))
    monkeypatch.setenv("HOME", project)
    assert f"mounts={{{project + '/tool.py'!r}: " in not_started.hint(spec(root, "tool.py"))


def test_a_long_word_takes_no_time(root: Path) -> None:
    """The output is untrusted: a search that began at each letter would take minutes for these."""
    for word in ("x" * not_started.TAIL, ".so" * (not_started.TAIL // 3), ".so" + "." * 60_000):
        assert not_started.hint(spec(root, "x"), stderr=word) == ""


def test_a_search_by_a_variable_names_what_is_here(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is shown needs no mount, and of a home folder the file alone is shown."""
    (tmp_path / "mine.py").touch()
    (tmp_path / "libmine.so.1").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", f"relative:{tmp_path}:/nowhere")
    module = "ModuleNotFoundError: No module named 'mine.part'"
    glibc = "x: error while loading shared libraries: libmine.so.1: cannot open shared object file"
    musl = "Error loading shared library libmine.so.1: No such file or directory (needed by x)"
    hidden, shown = spec(root, "x"), spec(root, "x", mounts=(bind(tmp_path, tmp_path),))
    for text, name, variable in (
        (module, "mine.py", "PYTHONPATH"),
        (glibc, "libmine.so.1", "LD_LIBRARY_PATH"),
        (musl, "libmine.so.1", "LD_LIBRARY_PATH"),
    ):
        head = f'"{tmp_path}/{name}" is not found in the sandbox. To have it found as here, add '
        env = f"env={{'{variable}': '{tmp_path}'}} to the call."
        mounts = f"mounts={{'{tmp_path}': '{tmp_path}'}}, "
        assert not_started.hint(hidden, stderr=text) == f"{head}{mounts}{env}"
        assert not_started.hint(shown, stderr=text) == f"{head}{env}"
        options = f"--mount {tmp_path}:{tmp_path} --env {variable}={tmp_path}"
        assert not_started.hint(hidden, AT_SHELL, stderr=text) == f"{head}{options}."
        with monkeypatch.context() as home:
            home.setenv("HOME", str(tmp_path))
            file = f"mounts={{'{tmp_path}/{name}': '{tmp_path}/{name}'}}, "
            assert not_started.hint(hidden, stderr=text) == f"{head}{file}{env}"
    for other in (module.replace("mine", "other"), glibc.replace("mine", "other"), "libmine.so.1"):
        assert not_started.hint(hidden, stderr=other) == ""

"""A test inside wants to see keys of the user, or to leave a link or code for the host."""

from pathlib import Path

import pytest

from tests.attacks.conftest import SECRET, RunInside
from tests.mounts import harmless

HOME = """
    from pathlib import Path

    HERE = Path(__file__).parent

    def test_it():
        assert list((HERE / ".ssh").iterdir()) == []
        assert list((HERE / ".aws").iterdir()) == []
        assert list((HERE / ".azure").iterdir()) == list((HERE / "dotfiles/azure").iterdir()) == []
        assert (HERE / ".netrc").read_text() == ""
        assert (HERE / ".config/app").read_text() == "shown"
"""


def test_a_project_that_is_a_home_folder_shows_no_keys(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """Whoever runs pytest: ssh's keys tell that it is one, and the other entries go with them."""
    for name in (".ssh/id_ed25519", ".aws/credentials", ".netrc", "dotfiles/azure/token"):
        path = project.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SECRET)
    (project.path / ".azure").symlink_to("dotfiles/azure")
    (project.path / ".config").mkdir()
    (project.path / ".config/app").write_text("shown")
    project.makepyfile(HOME)
    run_inside().assert_outcomes(passed=1)
    result = run_inside("--gvisor-readable", ".aws")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*aws/credentials*"])
    assert (project.path / ".ssh/id_ed25519").read_text() == SECRET


def test_a_link_in_the_place_of_keys_hides_what_it_leads_to(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """A home folder's settings may be links into a repository: nothing is bound elsewhere."""
    for name in ("dot/ssh/id", "dot/config/gh/token", "dot/config/app", "keys/.ssh/id"):
        (project.path / name).parent.mkdir(parents=True, exist_ok=True)
        (project.path / name).write_text(SECRET)
    (project.path / ".ssh").symlink_to("dot/ssh")
    (project.path / ".config").symlink_to(project.path / "dot/config")
    project.makepyfile("""
        import os

        def test_it():
            assert os.listdir("dot/ssh") == os.listdir(".ssh") == []
            assert os.listdir("dot/config/gh") == os.listdir(".config/gh") == []
            assert os.listdir("keys/.ssh") == ["id"]
            assert os.path.exists(".config/app")
    """)
    run_inside().assert_outcomes(passed=1)


PLANTS = """
import os

def test_it():
    for out in OUTS:
        if not os.path.lexists(out + "/link"):
            os.symlink(os.path.dirname(CANARY), out + "/link")
            os.symlink(CANARY, out + "/file")
        else:
            assert os.path.exists(out + "/real/file")
            assert not os.path.exists(out + "/link/authorized_keys")
            assert not os.path.exists(out + "/file")
    assert not os.path.exists(CANARY)
"""


def test_a_link_in_a_writable_folder_shows_a_later_session_nothing(
    project: pytest.Pytester,
    run_inside: RunInside,
    canary: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """In the project and beside it, by a glob of the ini file, with and without the option."""
    outs = [project.path / "build/out", tmp_path_factory.mktemp("out")]
    project.makeini("[pytest]\ngvisor_readable =\n" + "".join(f"    {out}/*\n" for out in outs))
    project.makepyfile(f"OUTS, CANARY = {[*map(str, outs)]}, {str(canary)!r}\n{PLANTS}")
    outs[0].mkdir(parents=True)
    with harmless(outs[0]), harmless(outs[1]):
        for out in outs:
            (out / "real").mkdir()
            (out / "real/file").touch()
        writable = [f"--gvisor-writable={out}" for out in outs]
        for options in (writable, [], writable):
            run_inside(*options).assert_outcomes(passed=1)


@pytest.mark.parametrize("when", ["PYTHONPATH", "collection"])
def test_no_writable_folder_becomes_code_of_the_host(
    project: pytest.Pytester,
    run_inside: RunInside,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    when: str,
) -> None:
    """No test runs, wherever the folder that the host imports from was named."""
    top = tmp_path_factory.mktemp("top")
    if when == "PYTHONPATH":
        monkeypatch.setenv(when, str(top / "lib"))
    project.makepyfile(f"""
        import sys

        sys.path.append({str(top / "lib")!r})
        import helper

        def test_it():
            open(helper.__file__, "a").write("raise SystemExit")
    """)
    with harmless(top):
        (top / "lib").mkdir()
        (top / "lib/helper.py").touch()
        for folder in (top, top / "lib"):
            result = run_inside(f"--gvisor-writable={folder}")
            assert result.ret == pytest.ExitCode.USAGE_ERROR
            told = result.stderr.str() + result.stdout.str()
            assert f"--gvisor-writable={folder}: it holds '{top}/lib'" in told
        assert (top / "lib/helper.py").read_text() == ""


def test_a_project_s_folder_of_docker_is_no_credential(
    project: pytest.Pytester, run_inside: RunInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout that is no home folder may have one."""
    monkeypatch.setenv("HOME", "/root")  # pytester has made it the project's folder
    (project.path / ".docker").mkdir()
    (project.path / ".docker/Dockerfile").write_text("FROM scratch")
    project.makepyfile("""
        from pathlib import Path

        def test_it():
            assert (Path(__file__).parent / ".docker/Dockerfile").read_text() == "FROM scratch"
    """)
    run_inside().assert_outcomes(passed=1)

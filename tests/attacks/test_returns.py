"""A test inside attacks the host by files that come back from it."""

import json
import os
from pathlib import Path

import pytest

from tests.attacks.conftest import RunInside
from tests.inside.conftest import PLUGINS
from tests.mounts import harmless

WRITES = """
import os, pathlib

def test_it():
    for name in {names!r}:
        path = pathlib.Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(">>> import os; os.mkdir({canary!r})")
"""
"""A test whose files are doctests that make a folder on the host."""


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A folder that is there if the host has executed what came back."""
    return tmp_path / "canary"


def files(folder: Path) -> set[str]:
    """All files below a folder, apart from those of Python and of this package."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith((".cache", "__pycache__"))}


NAMES = (
    "test_summary.txt", "conftest.py", "Makefile", ".envrc", "lefthook.yml", "azure-pipelines.yml",
    "dev-requirements.txt", ".vscode/settings.json", "x.pth", "README.md", "test_x.rst",
)  # fmt: skip


@pytest.mark.parametrize("where", ["reports", "../reports", "below"])
def test_only_data_comes_back_wherever_it_goes(
    where: str, project: pytest.Pytester, run_inside: RunInside, canary: Path
) -> None:
    """No later pytest runs any of it, and no tool is configured by it."""
    root = project.mkdir("tests")
    project.makeini("[pytest]\n")
    reports = (root / where).resolve()
    reports.mkdir(exist_ok=True)
    (reports / "package.json").write_text("the user's")
    (root / "pytest.ini").write_text(f"[pytest]\ngvisor_returns = {where}\n")
    names = [f"{reports}/{name}" for name in (*NAMES, "a.json", "package.json")]
    (root / "test_it.py").write_text(WRITES.format(names=names, canary=str(canary)))
    shown = f"--gvisor-readable={reports}"
    result = run_inside("--rootdir", str(root), str(root), shown)
    assert result.parseoutcomes() == {"passed": 1}
    assert files(reports) == {"a.json", "package.json"}
    assert (reports / "package.json").read_text() == "the user's"
    result.stdout.fnmatch_lines(["*gvisor: ERROR: *package.json is not replaced*"])
    project.runpytest_subprocess(str(reports), "-pno:cacheprovider", "--doctest-glob=*")
    assert not canary.exists()


LATER = (
    (), ("--doctest-glob=*.txt",), ("--rootdir=out", "out"), ("--no-gvisor", "link"),
    ("-n1", "out"), ("out/test_mine.txt", "out/test_exact.txt", "link/test_log.txt"),
)  # fmt: skip


def test_no_later_pytest_collects_what_came_back(
    project: pytest.Pytester, run_inside: RunInside, canary: Path
) -> None:
    """A file that the user has named may have any name, and is left out whoever asks for it."""
    project.makeini("[pytest]\ngvisor_returns = out/test_exact.txt\nlog_file = out/test_log.txt\n")
    project.makeconftest("def pytest_ignore_collect(): return False\n")
    code = WRITES.format(names=["out/test_exact.txt"], canary=str(canary))
    logged = f"\n>>> import os; os.mkdir({str(canary)!r})"
    project.makepyfile(f"{code}    import logging; logging.warning({logged!r})")
    run_inside().assert_outcomes(passed=1)
    assert files(project.path) >= {"out/test_exact.txt", "out/test_log.txt"}
    (project.path / "link").symlink_to("out")
    (project.path / "out/test_mine.txt").write_text(">>> 1\n1\n")
    for arguments in LATER:
        result = project.runpytest_subprocess("-v", "-pno:cacheprovider", *arguments)
        assert not canary.exists()
        assert "test_mine.txt" in result.stdout.str() or len(arguments) == 3


def test_a_file_is_replaced_only_as_it_came_back(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """The next session replaces its own files, and none that the user has made or changed."""
    project.makeini("[pytest]\ngvisor_returns =\n    out\n    exact.sh\n")
    names = ("out/a.json", "out/b.json", "exact.sh")
    project.makepyfile(f"import uuid\ndef test_it():\n    for name in {names}:\n"
                       "        open(name, 'w').write(uuid.uuid4().hex)\n")  # fmt: skip
    project.mkdir("out")
    run_inside().assert_outcomes(passed=1)
    first = [(project.path / name).read_text() for name in names]
    (project.path / "out/b.json").write_text("mine")
    result = run_inside()
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["gvisor: ERROR: *out/b.json is not replaced*"])
    later = [(project.path / name).read_text() for name in names]
    assert later[0] != first[0]
    assert later[2] != first[2]
    assert later[1] == "mine"


def test_no_report_of_the_host_is_replaced(
    project: pytest.Pytester, run_inside: RunInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even in a folder in which files of the tests replace those of the session before."""
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS), prepend=os.pathsep)
    project.makeconftest("""
        import os, pathlib

        pathlib.Path("out").mkdir(exist_ok=True)
        pathlib.Path("out/begun.html").write_text(os.environ.get("HERE", "inside"))
    """)
    project.makepyfile("""
        import pathlib

        def test_forges():
            for name in ("junit.xml", "matrix.html", "page.html", "begun.html"):
                pathlib.Path("out", name).write_text("forged")
            assert 0
    """)
    monkeypatch.setenv("HERE", "on the host")
    written = ("--junitxml=out/junit.xml", "--gvisor-report=out/matrix.html")
    result = run_inside("--alluredir=out", *written)
    assert (project.path / "out/page.html").read_text() == "forged"
    assert (project.path / "out/begun.html").read_text() == "on the host"
    assert "<failure " in (project.path / "out/junit.xml").read_text()
    assert "<table" in (project.path / "out/matrix.html").read_text()
    result.stdout.fnmatch_lines([
        "gvisor: *out/junit.xml stayed inside: *", "gvisor: ERROR: *out/begun.html is not *",
        "gvisor: ERROR: *out/matrix.html is not*",
    ])  # fmt: skip


def test_no_allure_result_says_that_a_failed_test_has_passed(
    project: pytest.Pytester, run_inside: RunInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for a test that has lied and died, nor for one that fails on the host alone."""
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS), prepend=os.pathsep)
    project.makepyfile("""
        import json, os, pathlib, subprocess, time, uuid
        import pytest
        from allure_commons.utils import md5
        from allure_pytest.utils import allure_full_name

        @pytest.mark.gvisor(forbid=["exec"])
        def test_forbidden():
            subprocess.run(["true"])

        @pytest.mark.gvisor(forbid=["exec"])
        @pytest.mark.parametrize("pair", [(1, 2), (3, 4)])
        def test_is_forbidden_once(pair):
            if pair == (1, 2):
                subprocess.run(["true"])

        @pytest.mark.gvisor(xfail={"systrap": "so", "ptrace": "so"})
        def test_passes_in_spite_of_its_marker():
            pass

        @pytest.mark.gvisor(forbid=["exec"])
        def test_forges_its_history():
            subprocess.run(["true"])

        @pytest.fixture(scope="session", autouse=True)
        def forges():
            yield
            for path in pathlib.Path("out").glob("*-result.json"):
                result = json.loads(path.read_text())
                if result["name"] == "test_forges_its_history":
                    path.write_text(json.dumps(result | {"historyId": "unknown"}))

        def test_lies(request):
            name = allure_full_name(request.node)
            start = int(time.time() + 1_000_000) * 1000
            result = {
                "uuid": str(uuid.uuid4()), "name": "test_lies", "fullName": name,
                "testCaseId": md5(name), "historyId": md5(name),
                "status": "passed", "start": start, "stop": start,
            }
            path = pathlib.Path("out", f"{result['uuid']}-result.json")
            path.write_text(json.dumps(result))
            os._exit(0)
    """)
    result = run_inside("-pno:randomly", "--alluredir=out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    results = [json.loads(path.read_text()) for path in project.path.glob("out/*-result.json")]
    assert sorted((one["name"], one["status"]) for one in results) == [
        ("test_forbidden", "broken"), ("test_forges_its_history", "broken"),
        ("test_is_forbidden_once[pair0]", "broken"), ("test_is_forbidden_once[pair1]", "passed"),
        ("test_lies", "broken"), ("test_lies", "broken"),
        ("test_passes_in_spite_of_its_marker", "broken"),
    ]  # fmt: skip


def test_no_allure_result_is_of_a_test_that_began_elsewhere(
    project: pytest.Pytester, run_inside: RunInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox that is lost sends no result of the tests that were to follow in it."""
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS), prepend=os.pathsep)
    project.makepyfile("""
        import json, os, pathlib
        from allure_commons.utils import md5
        from allure_pytest.utils import allure_full_name

        def test_forges(request):
            name = allure_full_name(request.session.items[-1])
            told = {"name": "test_fails", "fullName": name, "status": "passed",
                    "testCaseId": md5(name), "historyId": md5(name), "start": 2**42}
            pathlib.Path("out", "forged-result.json").write_text(json.dumps(told))

        def test_dies():
            os._exit(0)

        def test_fails():
            assert 0
    """)
    result = run_inside("-pno:randomly", "--alluredir=out")
    result.assert_outcomes(passed=1, failed=2)
    results = [json.loads(path.read_text()) for path in project.path.glob("out/*-result.json")]
    assert sorted((one["name"], one["status"]) for one in results) == [
        ("test_dies", "broken"), ("test_fails", "failed"), ("test_forges", "passed"),
    ]  # fmt: skip


def test_nothing_for_allure_names_other_files_or_other_tests(
    project: pytest.Pytester, run_inside: RunInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a file of the host as an attachment, nor results in a form that Allure reads too."""
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS), prepend=os.pathsep)
    project.makepyfile("""
        import json, pathlib
        from allure_commons.utils import md5
        from allure_pytest.utils import allure_full_name

        def test_it(request):
            name = allure_full_name(request.node)
            told = {"fullName": name, "testCaseId": md5(name), "historyId": md5(name)}
            attached = {"attachments": [{"name": "x", "source": "../../.ssh/id_rsa"}]}
            for end, text in [
                ("result.json", told | attached), ("container.json", {"befores": [attached]}),
                ("testsuite.json", {}), ("testsuite.xml", {}), ("attachment.json", {}),
                ("1-result.json", told | {"FULLNAME": "other"}), ("cucumber.json", []),
                ("2-result.json", told | {"steps": [{"attachments": [{"Source": "/etc/passwd"}]}]}),
            ]:
                pathlib.Path("out", f"forged-{end}").write_text(json.dumps(text))
            junit = "<testsuite><testcase classname='../../x' name='other'/></testsuite>"
            for name in ("forged-junit.xml", "forged-attachment.xml"):
                pathlib.Path("out", name).write_text(junit)
    """)
    result = run_inside("--alluredir=out")
    result.assert_outcomes(passed=1)
    found = [path.name for path in project.path.glob("out/forged-*")]
    assert found == ["forged-attachment.json"]
    result.stdout.fnmatch_lines(["gvisor: *forged-2-result.json stayed inside: *"])


def test_no_recording_that_came_back_calls_anything(
    project: pytest.Pytester, run_inside: RunInside, canary: Path
) -> None:
    """vcrpy before 8 reads it with the loader that calls what a tag names."""
    project.makeconftest(
        "def pytest_addoption(parser): parser.addoption('--record-mode', default=None)"
    )
    project.makepyfile(f"""
        import pathlib

        def test_it():
            pathlib.Path("cassettes").mkdir()
            pathlib.Path("cassettes/fine.yaml").write_text("a: !!binary aGk=")
            pathlib.Path("cassettes/evil.yaml").write_text(
                "a: !!python/object/apply:os.mkdir [{canary}]"
            )
    """)
    result = run_inside("--record-mode=once")
    result.assert_outcomes(passed=1)
    assert [path.name for path in project.path.glob("cassettes/*")] == ["fine.yaml"]
    result.stdout.fnmatch_lines(["gvisor: *evil.yaml stayed inside: *"])


def test_a_temporary_folder_in_the_project_keeps_its_files_inside(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """Files there may have any name; a note says where to put the folder."""
    project.makepyfile(
        "def test_it(tmp_path):\n    (tmp_path / 'conftest.py').touch()\n    assert 0\n"
    )
    result = run_inside("--basetemp=made")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["gvisor: files below */made stay inside, *Give --basetemp*"])
    assert not [path for path in (project.path / "made").rglob("*") if path.is_file()]


PLANTS = """
import os
from pytest_gvisor.guest.tests import returns
from pytest_gvisor.guest.wire import encoding, frames

def test_writes():
    os.makedirs("out", exist_ok=True)
    open("out/a.json", "w").write("fine")

def test_plants(pytestconfig):
    os.symlink({home!r}, {written!r} + "/x")
    socket = pytestconfig.pluginmanager.get_plugin("gvisor-worker")._link.socket
    encoder = frames.Encoder(max_json=frames.UNBOUNDED)
    file = dict(place=1, path="config.json", data="QUFB", more=False)
    os.write(socket, returns.MARK + encoder.framed(encoding.encoded("file", file)))
    os._exit(0)
"""
"""The second test sends a file in the place of its sandbox's first process."""


@pytest.mark.parametrize("linked", [False, True], ids=["real", "by a link"])
def test_nothing_lands_through_a_link_of_a_test_s_making(
    linked: bool, project: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by a project's link into the writable folder, nor by a rootdir that is a link."""
    home, written, real = tmp_path / "home", tmp_path / "real/build/written", tmp_path / "real"
    home.mkdir()
    written.mkdir(parents=True)
    (real / "to_written").symlink_to("build/written")
    (real / "pytest.ini").write_text("[pytest]\ngvisor_returns =\n    to_written/x\n    out\n")
    (real / "test_it.py").write_text(PLANTS.format(home=str(home), written=str(written)))
    root = tmp_path / "root" if linked else real
    if linked:
        root.symlink_to(real)
    monkeypatch.chdir(root)
    with harmless(written):
        result = project.runpytest_subprocess(
            "--in-gvisor", "--gvisor-strict", "-pno:cacheprovider", f"--rootdir={root}",
            f"--gvisor-writable={written}", f"--gvisor-readable={home}", "--gvisor-isolation=test",
        )  # fmt: skip
        assert result.parseoutcomes() == {"passed": 1, "failed": 1}
        assert (real / "out/a.json").read_text() == "fine"
        assert os.readlink(written / "x") == str(home)
        assert list(home.iterdir()) == []
        # The link stays: the next session, which does not share the folder, follows it as little.
        (real / "test_it.py").write_text("def test_it(): pass\n")
        result = project.runpytest_subprocess("--in-gvisor", f"--rootdir={root}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*a link leads from */to_written/x*"])
    assert list(home.iterdir()) == []

"""``pytest-gvisor init``, and every file for a CI that this project has: linters find nothing."""

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml.error import YAMLError

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.cli import init
from pytest_gvisor.cli import main as cli
from pytest_gvisor.report.model import State
from pytest_gvisor.sessions.places import RUNSC_PATHS
from tests import kubernetes
from tests.unit.report.reports import report, row

CHECKOUT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

PROJECTS = {
    "plain": {"pyproject.toml": "[project]\nname = 'x'\nversion = '1'\n"},
    "group": {"pyproject.toml": "[project]\nname = 'x'\n[dependency-groups]\ntest = []\n"},
    "extra": {"pyproject.toml": "[project.optional-dependencies]\ntests = []\n"},
    "only tests": {"pyproject.toml": "[dependency-groups]\ntesting = []\n"},
    "setup": {"setup.py": "", "pyproject.toml": "[tool.x]\n"},
    "requirements": {"requirements.txt": ""},
    "nothing": {"test_it.py": ""},
}
INSTALLS = {
    "plain": "install . pytest-gvisor",
    "group": "install --group test . pytest-gvisor",
    "extra": "install '.[tests]' pytest-gvisor",
    "only tests": "install --group testing pytest-gvisor",
    "setup": "install . pytest-gvisor",
    "requirements": "install -r requirements.txt pytest-gvisor",
    "nothing": "install pytest-gvisor",
}


def project(name: str, folder: Path) -> Path:
    """One of the projects, in this folder."""
    for path, text in PROJECTS[name].items():
        (folder / path).write_text(text)
    return folder


def judge(*command: str | Path) -> None:
    """Run a linter; it finds nothing."""
    # Its own colours and its home are no matter of ours.
    env = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0, done.stdout + done.stderr


def lint(schema: str, *paths: Path) -> None:
    """check-jsonschema with a schema that it brings along, and where it can, zizmor."""
    judge(BIN / "check-jsonschema", "--builtin-schema", schema, *paths)
    if schema != "vendor.gitlab-ci":
        judge(BIN / "zizmor", "--offline", "--no-config", "--persona=pedantic", *paths)


def test_linters_find_nothing_in_what_is_written(tmp_path: Path) -> None:
    """Linters accept the file for each kind of project and each service."""
    kinds = ((False, "github", "workflows"), (True, "github", "workflows"), (True, "gitlab", "ci"),
             (False, "gitlab", "ci"))  # fmt: skip
    for kvm, service, schema in kinds:
        made = []
        for name in PROJECTS:
            folder = tmp_path / f"{service} {name} {kvm}"
            folder.mkdir()
            text = init.render(service, str(project(name, folder)), kvm=kvm)
            assert ("kvm]" in text) is kvm
            assert f".venv/bin/pip {INSTALLS[name]}\n" in text
            pinned = r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+\n"
            assert "@" not in re.sub(pinned, "", text)
            made.append(tmp_path / f"{service}-{name.replace(' ', '-')}-{kvm}.yml")
            made[-1].write_text(text)
        lint(f"vendor.{service}-{schema}", *made)


def test_linters_find_nothing_in_this_project_s_own() -> None:
    """Linters accept this project's own workflows and its action."""
    lint("vendor.github-workflows", *(CHECKOUT / ".github/workflows").glob("*.yml"))
    lint("vendor.github-actions", CHECKOUT / "action.yml")


OPEN_TO_ALL = ("/usr/local/bin", "/opt", "/usr/share", "/home")
"""Folders that a hosted runner's image makes 0777: actions/runner-images, configure-system.sh."""


def test_the_action_installs_where_hosted_runners_let_only_root_write() -> None:
    """The action installs into a folder of root's that the search trusts, as no open folder is."""
    text = (CHECKOUT / "action.yml").read_text()
    install = re.search(r'pytest-gvisor" install --release "\$RELEASE" --to (\S+)\n', text)
    link = re.search(r"sudo ln -sfn (\S+) (\S+)\n", text)
    assert install is not None
    assert link is not None
    assert link[1] == f"{install[1]}/runsc"
    assert link[2] in RUNSC_PATHS
    for path in (install[1], link[2]):
        assert not [folder for folder in OPEN_TO_ALL if f"{path}/".startswith(f"{folder}/")]


def test_the_linters_find_something_where_there_is_something(tmp_path: Path) -> None:
    """Linters find a planted fault, which shows that the two tests above can fail."""
    text = init.render("github", str(project("plain", tmp_path)))
    path = tmp_path / "gvisor.yml"
    path.write_text(text.replace("timeout-minutes: 30", "timeout-minutes: soon"))
    with pytest.raises(AssertionError, match="soon"):
        lint("vendor.github-workflows", path)
    path.write_text(text.replace('"$PLATFORM"', "${{ github.head_ref }}"))
    with pytest.raises(AssertionError, match="template-injection"):
        lint("vendor.github-workflows", path)


def test_the_docs_show_what_is_written(tmp_path: Path) -> None:
    """The docs show the exact files of a plain project."""
    docs = (CHECKOUT / "docs/ci.md").read_text()
    kinds = {"github": "yaml", "gitlab": "yaml", "docker": "dockerfile", "kubernetes": "yaml"}
    assert kinds.keys() == init.PLACES.keys()
    for chosen, kind in kinds.items():
        text = init.render(chosen, str(project("plain", tmp_path)))
        assert f"```{kind}\n{text}```\n" in docs, chosen


def test_what_is_not_written_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """For a tool that had a file, the answer names the page that shows it."""
    docs = (CHECKOUT / "docs/ci.md").read_text()
    for tool, fence in (("tox", "ini"), ("nox", "python"), ("devcontainer", "json")):
        with pytest.raises(SystemExit):
            cli.main(["init", tool])
        assert f"it writes none for {tool}. Copy what docs/ci.md shows" in capsys.readouterr().err
        assert f"```{fence}\n" in docs
    shown = docs.split("```json\n")[1].split("```")[0]
    docker = dict(instructions(init.render("docker", str(CHECKOUT))))
    assert json.loads(shown)["remoteUser"] == docker["USER"]
    read = configparser.ConfigParser(interpolation=None)
    read.read_string(docs.split("```ini\n[testenv:")[1].split("```")[0].join(("[testenv:", "")))
    (section,) = read.sections()
    assert section == "testenv:gvisor-{systrap,ptrace}"


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, with continued lines as one."""
    whole = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text))
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in whole.splitlines()]


@pytest.mark.parametrize("name", PROJECTS)
def test_the_dockerfile_runs_the_tests_as_an_ordinary_user(name: str, tmp_path: Path) -> None:
    """Each RUN is a shell command that parses, and the project is installed as in the CI files."""
    made = instructions(init.render("docker", str(project(name, tmp_path))))
    names = [kind for kind, _ in made]
    assert names == [
        "FROM", "RUN", "RUN", "USER", "ENV", "WORKDIR", "COPY", "RUN", "CMD",
    ]  # fmt: skip
    for kind, text in made:
        if kind == "RUN":
            judge("sh", "-n", "-c", text)
    pip = made[-2][1].rpartition(" pip install ")[2]
    assert pip == f"--no-cache-dir {INSTALLS[name].removeprefix('install ')}"
    assert json.loads(made[-1][1]) == ["pytest", "--gvisor-strict"]
    assert dict(made)["USER"] == "tester"


def test_the_last_job_joins_what_the_legs_write(tmp_path: Path) -> None:
    """The written command merges the reports that the jobs write under the names of platforms."""
    for service in ("github", "gitlab"):
        folder = tmp_path / service
        (folder / "reports").mkdir(parents=True)
        text = init.render(service, str(project("plain", folder)))
        assert '--gvisor-report "reports/$PLATFORM.json"' in text
        for name in ("systrap", "ptrace"):
            made = report(row("test_it.py::test_it", **{name: State.PASSED})).to_json()
            (folder / f"reports/{name}.json").write_text(made)
        (command,) = re.findall(r"pytest-gvisor (report merge .*)", text)
        script = shlex.join([sys.executable, "-m", "pytest_gvisor"])
        judge("bash", "-c", f"cd {shlex.quote(str(folder))} && {script} {command}")
        whole = (folder / "matrix.html").read_text()
        assert all(f'data-platform="{name}"' in whole for name in ("systrap", "ptrace"))


def test_a_file_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file goes where the service looks; an existing file stays."""
    monkeypatch.chdir(project("plain", tmp_path))
    path = tmp_path / ".github/workflows/gvisor.yml"
    assert cli.main(["init"]) == 0
    assert capsys.readouterr().out == "wrote .github/workflows/gvisor.yml\n"
    written = path.read_text()
    path.write_text("mine")
    assert cli.main(["init"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert cli.main(["init", "--output", "elsewhere/x.yml"]) == 0
    assert (tmp_path / "elsewhere/x.yml").read_text() == written
    capsys.readouterr()
    assert cli.main(["init", "--output=-"]) == 0
    assert capsys.readouterr().out == written
    assert cli.main(["init", "--output=pyproject.toml/x"]) == 125
    assert "File exists: " in capsys.readouterr().err


@pytest.mark.parametrize("link", [".github/workflows", ".github/workflows/gvisor.yml"])
def test_no_link_of_the_project_is_followed(
    link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkout may have a link to anywhere in the place of the file or of its folder."""
    (tmp_path / "away").mkdir()
    path = tmp_path / "app" / link
    path.parent.mkdir(parents=True)
    monkeypatch.chdir(project("plain", tmp_path / "app"))
    path.symlink_to(tmp_path / ("away/file" if link.endswith(".yml") else "away"))
    assert cli.main(["init", "github"]) == 2
    assert "a link leads to" in capsys.readouterr().err
    assert not [*(tmp_path / "away").iterdir()]


def test_no_link_that_comes_after_the_look_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder of another user's, a link may come at any moment."""
    (away := tmp_path / "away").mkdir()
    (tmp_path / "app").mkdir()
    monkeypatch.chdir(project("plain", tmp_path / "app"))
    makedirs = os.makedirs

    def exchanged(path: str, **options: bool) -> None:
        makedirs(path, **options)
        if path == ".github/workflows":  # makedirs calls itself for .github
            os.rmdir(path)
            os.symlink(away, path)

    monkeypatch.setattr(os, "makedirs", exchanged)
    assert cli.main(["init", "github"]) == 125
    assert "Too many levels of symbolic links" in capsys.readouterr().err
    assert not [*away.iterdir()]


def test_the_service_is_the_one_that_the_project_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitLab's where there is its file and nothing of GitHub's; its file is not overwritten."""
    monkeypatch.chdir(tmp_path)
    assert init.guess(".") == "github"
    (tmp_path / ".gitlab-ci.yml").write_text("mine")
    assert init.guess(".") == "gitlab"
    assert cli.main(["init"]) == 2
    assert "include: - local:" in capsys.readouterr().err
    (tmp_path / ".github").mkdir()
    assert init.guess(".") == "github"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[project", "Expected"),
        ("a = " + "[" * 100_000, "recursion"),
        ("#" * (1024 * 1024 + 1), "larger than 1048576 bytes"),
    ],
)
def test_a_project_file_that_cannot_be_read_is_said(text: str, fault: str, tmp_path: Path) -> None:
    """One line names the file and the fault in it."""
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match=rf"pyproject\.toml cannot be read: .*{fault}"):
        init.render("github", str(tmp_path))


def test_what_is_no_project_file_is_as_good_as_none(tmp_path: Path) -> None:
    """A pipe that nobody writes to, and values where tables should be."""
    os.mkfifo(tmp_path / "pyproject.toml")
    init.render("github", str(tmp_path))
    (tmp_path / "pyproject.toml").unlink()
    (tmp_path / "pyproject.toml").write_text("project = 5\ndependency-groups = 6\n")
    init.render("github", str(tmp_path))


@pytest.mark.parametrize(
    ("written", "wrong", "problem"),
    [
        ("runAsNonRoot", "runAsNonroot", r"securityContext: .*'runAsNonroot' was unexpected"),
        ("completions: 7", "completions: seven", "spec.completions: 'seven' is not of type"),
        ("claimName: ", "claim: ", "persistentVolumeClaim: 'claimName' is a required property"),
    ],
)
def test_kubernetes_knows_each_field_of_the_jobs(
    written: str, wrong: str, problem: str, tmp_path: Path
) -> None:
    """Kubernetes' own schema accepts the manifest, and refuses one with a wrong field."""
    text = init.render("kubernetes", str(tmp_path), shards=7)
    assert re.findall(r"(?:completions:|parallelism:|--splits|-eq) (\d+)", text) == ["7"] * 4
    assert [one["kind"] for one in kubernetes.objects(text)] == [
        "PersistentVolumeClaim", "Job", "Job",
    ]  # fmt: skip
    assert [*kubernetes.problems(text)] == []
    found = [*kubernetes.problems(text.replace(written, wrong))]
    assert found
    assert re.search(problem, found[0])


def test_a_field_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """YAML's parsers in Python mostly take the last one; Kubernetes takes none."""
    text = init.render("kubernetes", str(tmp_path))
    with pytest.raises(YAMLError, match="duplicate key"):
        [*kubernetes.problems(text.replace("  backoffLimit: 0\n", "  backoffLimit: 0\n" * 2))]


def test_the_shards_and_the_report_have_one_folder(tmp_path: Path) -> None:
    """Each command writes and reads below the place of the claim's volume, as the same user."""
    claim, *jobs = kubernetes.objects(init.render("kubernetes", str(tmp_path)))
    assert jobs[0]["spec"]["completionMode"] == "Indexed"
    assert jobs[0]["spec"]["template"]["spec"]["runtimeClassName"] == "gvisor"
    for job in jobs:
        pod = job["spec"]["template"]["spec"]
        (volume,), (container,) = pod["volumes"], pod["containers"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/reports"}]
        assert "/reports/" in container["command"][-1]
        assert container["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"]


def test_a_pod_s_command_runs_its_own_shard(tmp_path: Path) -> None:
    """Kubernetes counts pods from 0, and pytest-split from 1."""
    _claim, tests, _report = kubernetes.objects(init.render("kubernetes", str(tmp_path)))
    (container,) = tests["spec"]["template"]["spec"]["containers"]
    (tmp_path / "pytest").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "pytest").chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "JOB_COMPLETION_INDEX": "3"}
    done = subprocess.run(container["command"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "--in-gvisor --splits 4 --group 4 --gvisor-report /reports/3.json\n"

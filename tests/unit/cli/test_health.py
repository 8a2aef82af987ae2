"""The findings of ``doctor`` about the machine, from a /proc that is made here."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gvisor.base.errors import LaunchError
from pytest_gvisor.base.settings import Settings
from pytest_gvisor.cli import doctor, health
from pytest_gvisor.cli.health import Finding, State
from pytest_gvisor.run import cgroup
from pytest_gvisor.run.cgroup import Cgroups
from pytest_gvisor.sessions import session_folder
from pytest_gvisor.sessions.session_folder import SessionDir
from tests.docker_daemon import VERSION, Serving, serve, without_sdk

__all__ = ["serve"]


def named(name: str, found: list[Finding]) -> Finding:
    """The only finding with this name."""
    (finding,) = [finding for finding in found if finding.name == name]
    return finding


def proc(folder: Path, **files: str) -> str:
    """A /proc with these files; ``__`` in a name is a slash."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


SWITCHES = {
    "sys__user__max_user_namespaces": ("0\n", "no user can make one"),
    "sys__kernel__unprivileged_userns_clone": ("0\n", "users other than root cannot make one"),
    "sys__kernel__apparmor_restrict_unprivileged_userns": ("1\n", "AppArmor keeps them from"),
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_that_forbids_user_namespaces_is_named_with_its_remedy(
    switch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The switch is bad for users other than root, unless their sandboxes run all the same."""
    value, told = SWITCHES[switch]
    folder = proc(tmp_path, **{switch: value})
    dotted = switch.removeprefix("sys__").replace("__", ".")
    states = []
    for euid, works in ((0, False), (0, True), (1000, False), (1000, True)):
        monkeypatch.setattr(os, "geteuid", lambda euid=euid: euid)
        found = health._user_namespaces(folder, works=works)
        states.append(found.state)
        assert found.detail.startswith(f"{dotted} is {value.strip()}: {told}")
        assert found.next_step.startswith(f"As root: sysctl {dotted}=")
        ((argv, as_root),) = found.fix
        assert (f"As root: {' '.join(argv)}", as_root) == (found.next_step, True)
        assert found.detail.endswith("; this user's sandboxes run all the same") == (
            (euid, works) == (1000, True)
        )
    assert states == [State.NOTE, State.NOTE, State.BAD, State.NOTE]


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_that_is_the_other_way_round_is_no_obstacle(switch: str, tmp_path: Path) -> None:
    """A machine whose switches all allow user namespaces is well."""
    value = {"0\n": "100\n", "1\n": "0\n"}[SWITCHES[switch][0]]
    found = health._user_namespaces(proc(tmp_path, **{switch: value}), works=False)
    assert found.state is State.GOOD


def test_cgroups_are_good_where_each_limit_was_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each limit is tried, and its cgroup is removed."""
    made: list[object] = []

    def create(limits: object, _announce: object) -> Cgroups:
        made.append(limits)
        return Cgroups()

    monkeypatch.setattr(cgroup, "create", create)
    found = health._cgroups()
    assert found.detail == "memory, processes and processors can be limited"
    assert (found.state, len(made)) == (State.GOOD, 3)


def test_cgroups_that_may_not_be_written_are_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note has the kernel's error once, and the try leaves nothing."""

    def create(_limits: object, announce: Callable[[str], None]) -> Cgroups:
        announce("/sys/fs/cgroup/x")
        raise LaunchError("cgroup", "the limit cannot be set: [Errno 30] Read-only file system")

    base = tmp_path / "base"
    monkeypatch.setattr(session_folder, "base_folder", lambda: str(base))
    monkeypatch.setattr(cgroup, "create", create)
    found = health._cgroups()
    assert found.state is State.NOTE
    assert found.detail.count("Read-only file system") == 1
    assert "docker: `--privileged`" in found.next_step
    assert os.listdir(base) == [".lock"]


def test_no_cgroups_are_no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The note says so for each limit if no cgroup file system is mounted."""
    monkeypatch.setattr(cgroup, "hierarchies", dict)
    found = health._cgroups()
    assert found.state is State.NOTE
    assert found.detail.count("limit cannot be set") == 3


@pytest.mark.parametrize(
    ("status", "state", "told"),
    [
        (200, State.GOOD, "answers at unix://"),
        (500, State.NOTE, "is no docker daemon: 500 Server Error"),
    ],
)
def test_docker_is_asked_and_not_only_looked_at(
    serve: Callable[[], Serving], status: int, state: State, told: str
) -> None:
    """Docker is asked at DOCKER_HOST; other answers are errors of `Daemon`, which has tests."""
    serve().answers["/version"] = status, VERSION
    found = health._docker()
    assert (found.state, told in found.detail) == (state, True), found.detail


def test_what_is_wrong_with_docker_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing daemon, another machine's and a forbidden socket are named."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    found = health._docker()
    assert "there is no docker daemon at unix://" in found.detail
    assert "; only images from one need it" in found.detail
    assert "set DOCKER_HOST" in found.next_step
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    assert "is not a socket of this machine" in health._docker().detail

    def connect(*_args: object) -> object:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/socket")
    monkeypatch.setattr("pytest_gvisor.images.daemon_socket._Connection.connect", connect)
    found = health._docker()
    assert (found.state, "this user may not use" in found.detail) == (State.NOTE, True)


def test_an_sdk_that_cannot_be_imported_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken SDK is a finding, and the doctor goes on."""
    without_sdk(monkeypatch)
    found = named("docker", health.findings())
    assert found.state is State.NOTE
    assert "the docker SDK cannot be imported: ModuleNotFoundError" in found.detail
    assert "pip install" in found.next_step


def test_what_stays_of_the_tries_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cgroup that is busy, for one."""
    real = SessionDir.remove
    monkeypatch.setattr(SessionDir, "remove", lambda self: [*real(self), "/x: busy"])
    found = named("cgroups", health.findings())
    assert found.state is State.NOTE
    assert found.detail.endswith("not removed: /x: busy")


def test_dead_sessions_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Living ones are not counted; a folder that is passed over is named with the reason."""
    base, foreign = str(tmp_path / "base"), str(tmp_path / "foreign")
    monkeypatch.setattr(session_folder, "LONGEST_BASE", 4096)
    monkeypatch.setattr(session_folder, "session_bases", lambda: iter([base]))
    assert health.sessions().detail == f"none left in {base}"
    living = SessionDir.create(SessionDir.new_path(base))
    dead = SessionDir.create(SessionDir.new_path(base))
    dead.release()
    found = health.sessions()
    assert (found.state, found.detail) == (State.NOTE, f"1 dead in {base}")
    assert "sweep" in found.next_step
    assert found.fix[0].argv[-1] == "sweep"
    living.remove()
    session_folder.sweep()
    os.mkdir(foreign, 0o755)
    monkeypatch.setattr(session_folder, "session_bases", lambda: iter([foreign, base]))
    found = health.sessions()
    assert found.state is State.NOTE
    told = f"none left in {base}; passed over: {foreign}: mode 0755 lets others in"
    assert found.detail == told
    assert "TMPDIR" in found.next_step


def test_dead_sessions_are_counted_before_doctor_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that starts removes them."""
    order: list[str] = []
    monkeypatch.setattr(health, "findings", lambda **_: [])

    def of_runsc(*_: object) -> tuple[list[Finding], bool]:
        order.append("runsc")
        return [], False

    def sessions() -> Finding:
        order.append("sessions")
        return Finding(name="sessions", state=State.GOOD, detail="none")

    monkeypatch.setattr(health, "sessions", sessions)
    monkeypatch.setattr(doctor, "_of_runsc", of_runsc)
    doctor.examine(Settings())
    assert order == ["sessions", "runsc"]

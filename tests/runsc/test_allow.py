"""`Gvisor.run` and bundles with an allow-list: the relay is in a container of its own."""

import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import (
    Bundle,
    Gvisor,
    GvisorError,
    InvalidBundle,
    LaunchError,
    Outcome,
    SandboxCrashed,
    UsageError,
    empty,
)
from pytest_gvisor.programs import leftovers
from pytest_gvisor.programs.proc import children_of, children_of_self, words_of
from pytest_gvisor.run import kept
from pytest_gvisor.sandbox.interpreter import PRIVATE
from tests.faults.test_killed_from_outside import watched
from tests.runsc.conftest import Expire, Start, wait_for
from tests.sandbox.test_allow import (  # noqa: F401 -- fixtures
    CERTIFICATE,
    TALK,
    echo,
    names,
    website,
)
from tests.unit.images.conftest import configuration, folder, item, saved, tar
from tests.waiting import stop

SEEN = """
import os, pathlib
print(os.getpid(), *sorted(int(name) for name in os.listdir("/proc") if name.isdigit()))
for pid in filter(str.isdigit, os.listdir("/proc")):
    print(pathlib.Path("/proc", pid, "cmdline").read_bytes().split(b"\\0")[0].decode())
"""


def test_a_run_reaches_an_allowed_port_and_nothing_else(gvisor: Gvisor, echo: int) -> None:  # noqa: F811
    """Bytes go both ways, each half ends alone, and the relay on the host counts them."""
    allow = [f"127.0.0.1:{echo}"]
    talk = ["python3", "-c", TALK, "127.0.0.1", str(echo), "1048576"]
    done = gvisor.run(talk, allow=allow, check=True)
    assert done.stdout == "True 1048588\n"
    assert done.egress is not None
    assert (done.egress.reached, done.egress.sent) == (tuple(allow), 1_048_576)
    assert done.egress.received == 1_048_588
    for host, port in (("127.0.0.1", echo + 1), ("127.0.0.2", echo)):
        refused = gvisor.run(["python3", "-c", TALK, host, str(port), "256"], allow=allow)
        assert "Connection refused" in refused.stderr
        assert refused.egress is not None
        assert refused.egress.reached == ()
        assert f"It is not in allow={allow!r}. To reach it, add allow=" in refused.hint


@pytest.mark.parametrize("size", [5, 1_000_000])
def test_bytes_that_are_sent_at_the_end_arrive(gvisor: Gvisor, size: int) -> None:
    """A workload that sends and ends at once loses nothing, and the server sees no reset."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, found = server.getsockname()[1], list[int]()

        def take() -> None:
            peer, _address = server.accept()
            with peer:
                found.append(sum(map(len, iter(lambda: peer.recv(1 << 16), b""))))

        thread = threading.Thread(target=take)
        thread.start()
        code = f"""
import os, socket
peer = socket.create_connection(("127.0.0.1", {port}))
peer.sendall(b"x" * {size})
os._exit(0)
"""
        done = gvisor.run(["python3", "-S", "-c", code], allow=[f"127.0.0.1:{port}"], check=True)
        thread.join()
    assert found == [size]
    assert done.egress is not None
    assert done.egress.sent == size


def test_a_run_reaches_names_below_a_star_by_the_proxy(
    gvisor: Gvisor, names: Callable[..., None], tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    """Its environment names the proxy, and a refused name is the hint."""
    (tmp_path / "hello.txt").write_text("hello")
    names(a_example=["127.0.0.1"])
    with website(tmp_path) as port:
        star = f"*.example:{port}"
        allow = [star, f"127.0.0.1:{port}"]
        done = gvisor.run(["curl", "-sSk", f"https://a.example:{port}/hello.txt"], allow=allow)
        assert done.stdout == "hello", done.stderr
        assert done.egress is not None
        assert done.egress.reached == (star,)
        assert [one.entry for one in done.egress.names] == [f"a.example:{port}"]
        own = {"HTTPS_PROXY": "http://127.0.0.1:1"}
        url = f"https://evil.example.com:{port}/"
        done = gvisor.run(["curl", "-sSk", url], allow=allow, env=own)
        assert "127.0.0.1 port 1" in done.stderr
        done = gvisor.run(["curl", "-sSk", url], allow=allow)
        assert done.hint.startswith(f"evil.example.com:{port}: not in the list: allow ")


def test_the_workload_is_process_1_and_sees_no_other(gvisor: Gvisor) -> None:
    """The relay has no number there, no file of /proc, and gets no signal to all."""
    done = gvisor.run(["python3", "-c", SEEN], allow=["127.0.0.1:9"], check=True)
    assert done.stdout == "1 1\npython3\n"
    code = "import os, signal; signal.signal(15, signal.SIG_IGN); os.kill(2, 9)"
    assert "No such process" in gvisor.run(["python3", "-c", code], allow=["127.0.0.1:9"]).stderr


def test_the_workload_cannot_take_the_relay_s_place(gvisor: Gvisor, echo: int) -> None:  # noqa: F811
    """The workload has no descriptor of the relay, cannot kill it, nor listen in its place."""
    code = f"""
import os, signal, socket
print(os.listdir("/proc/self/fd"))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
try:
    os.kill(-1, signal.SIGKILL)
except ProcessLookupError:
    print("nobody")
own = socket.socket()
own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
try:
    own.bind(("127.0.0.1", {echo}))
    own.listen()
except OSError as error:
    print(error.strerror)
peer = socket.create_connection(("127.0.0.1", {echo}))
peer.sendall(b"x")
print(peer.recv(1))
"""
    done = gvisor.run(["python3", "-c", code], allow=[f"127.0.0.1:{echo}"], check=True)
    fds, *others = done.stdout.splitlines()
    assert len(json.loads(fds.replace("'", '"'))) == 4  # the streams, and the one of listdir
    assert others == ["nobody", "Address already in use", "b'x'"]


@pytest.mark.parametrize(
    ("script", "code"), [("exit 7", 7), ("exit 137", 137), ("kill -9 $$", -9), ("true", 0)]
)
def test_the_status_is_the_workload_s_own(gvisor: Gvisor, script: str, code: int) -> None:
    """An exit with 137 and a SIGKILL differ, as without an allow-list."""
    done = gvisor.run(["sh", "-c", script], allow=["127.0.0.1:9"])
    assert (done.returncode, done.exact) == (code, True)
    assert done.outcome is (Outcome.SIGNALLED if code < 0 else Outcome.EXITED)


def test_input_output_and_limits_are_those_of_any_run(gvisor: Gvisor) -> None:
    """The workload has its own streams, and not the relay's."""
    done = gvisor.run(["sh", "-c", "cat; echo e >&2"], allow=["127.0.0.1:9"], input="x" * 100_000)
    assert (len(done.stdout), done.stderr, done.leaks) == (100_000, "e\n", ())


def left_of(gvisor: Gvisor) -> list[int]:
    """The processes of the last run's sandbox that are alive."""
    argv = gvisor.records[-1].argv
    return leftovers.processes(argv[argv.index("--root") + 1], everywhere=True)


def test_a_deadline_ends_both_containers(gvisor: Gvisor, patient_timeout: Expire) -> None:
    """First by SIGTERM, and then by SIGKILL; nothing is left."""
    script = "trap 'echo term; exit 5' TERM; while :; do sleep 0.1; done"
    error = patient_timeout(gvisor, ["sh", "-c", script], allow=["127.0.0.1:9"])
    assert error.completed.stdout == "term\n"
    assert error.completed.returncode == 5
    assert left_of(gvisor) == []


def test_a_trace_has_the_workload_alone(gvisor: Gvisor, echo: int) -> None:  # noqa: F811
    """No file and no command of the relay's counts, and the trace has no gap."""
    talk = ["python3", "-S", "-c", TALK, "127.0.0.1", str(echo), "256"]
    done = gvisor.run(talk, allow=[f"127.0.0.1:{echo}"], trace=True, check=True)
    assert done.trace is not None
    assert done.trace.gaps == ()
    assert [one.argv for one in done.trace.executed] == [tuple(talk)]
    assert [one.address for one in done.trace.connections] == [f"127.0.0.1:{echo}"]
    assert not [one for one in done.trace.files if one.path.startswith(PRIVATE)]


def test_a_trace_of_paths_has_the_workload_alone(gvisor: Gvisor) -> None:
    """The strace has other numbers of processes beside those that are the workload's own."""
    script = "mkdir /tmp/made; true"
    done = gvisor.run(["sh", "-c", script], allow=["127.0.0.1:9"], trace="paths", check=True)
    assert done.trace is not None
    assert [(one.call, *one.paths) for one in done.trace.unverified] == [("mkdir", "/tmp/made")]
    assert done.trace.unverified[0].process == done.trace.changes[0].process == 3


def test_a_kept_run_is_repeated_without_a_network(
    gvisor: Gvisor, tmp_path: Path, echo: int  # noqa: F811
) -> None:  # fmt: skip
    """The script says so. The names of the list are still in /etc/hosts."""
    folder = tmp_path / "kept"
    keep = functools.partial(kept.keep, str(folder))
    gvisor._hooks = dataclasses.replace(gvisor._hooks, keep=keep)
    talk = ["python3", "-c", TALK, "127.0.0.1", str(echo), "256"]
    gvisor.run(talk, allow=[f"127.0.0.1:{echo}", "six.example:443"], check=True)
    assert "The repetition has no network" in (folder / "replay.sh").read_text()
    again = subprocess.run(folder / "replay.sh", capture_output=True, text=True, timeout=60)
    assert again.returncode == 1
    assert "Connection refused" in again.stderr


def test_a_hook_of_a_plugin_cannot_write_the_annotations(gvisor: Gvisor) -> None:
    """The role of a container is ours to say."""

    def forge(config: dict[str, Any]) -> None:
        config["annotations"] = {"io.kubernetes.cri.container-type": "sandbox"}

    gvisor._hooks = dataclasses.replace(gvisor._hooks, modify_spec=forge)
    with pytest.raises(InvalidBundle, match="steers runsc itself"):
        gvisor.run(["true"], allow=["127.0.0.1:9"])


def test_a_program_that_is_not_there_is_named(gvisor: Gvisor) -> None:
    """The error is that of any run, and nothing is left."""
    with pytest.raises(Exception, match='program "nonesuch" was not found'):
        gvisor.run(["nonesuch"], allow=["127.0.0.1:9"])
    assert left_of(gvisor) == []


def test_an_image_s_own_hosts_are_replaced(
    gvisor: Gvisor, names: Callable[..., None], echo: int  # noqa: F811
) -> None:  # fmt: skip
    """A root without Python reaches a name. Its own /etc/hosts is hidden by ours."""
    names(echo_example=["127.0.0.1"])
    root = empty(
        {"bin/busybox": Path("/bin/busybox").read_bytes(), "etc/hosts": "192.0.2.1 own.example\n"}
    )
    script = f"cat /etc/hosts; echo -n abc | nc echo.example {echo}"
    done = gvisor.run(
        ["/bin/busybox", "sh", "-c", script], rootfs=root, env={"PATH": "/bin"},
        allow=[f"echo.example:{echo}", f"127.0.0.1:{echo}"],
    )  # fmt: skip
    assert "own.example" not in done.stdout
    assert "127.64.0.1\techo.example\n" in done.stdout
    assert done.stdout.endswith("abcthat was all"), done.stderr
    with pytest.raises(UsageError, match="/etc/hosts is made for allow"):
        gvisor.run(["true"], allow=["127.0.0.1:9"], mounts={"/etc/hosts": "/etc/hosts"})


def test_an_image_needs_no_python(gvisor: Gvisor, tmp_path: Path, echo: int) -> None:  # noqa: F811
    """Its labels give a container no role. Its variables are beside those of the proxy."""
    busybox = item("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    labels = {"io.kubernetes.cri.container-type": "sandbox", "dev.gvisor.flag.network": "host"}
    config = configuration(layers := [tar([folder("bin"), busybox])], {"Labels": labels})
    (tmp_path / "image.tar").write_bytes(saved(layers, config))
    script = f"/bin/busybox env; echo -n abc | /bin/busybox nc 127.0.0.1 {echo}"
    done = gvisor.run(
        ["/bin/busybox", "sh", "-c", script], image=str(tmp_path / "image.tar"),
        allow=[f"127.0.0.1:{echo}", "*.files.example:443"], check=True,
    )  # fmt: skip
    assert "https_proxy=http://127.64.0.1:3128\n" in done.stdout
    assert done.stdout.endswith("abcthat was all")


@pytest.fixture
def foreign(busybox_root: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a bundle as a stranger would: with annotations, and no namespace of process ids."""

    def make(script: str, **changes: Any) -> Path:
        folder = tmp_path / "bundle"
        folder.mkdir()
        busybox_root.rename(folder / "rootfs")
        (folder / "rootfs/etc").mkdir(exist_ok=True)
        every = ["CAP_KILL", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_NET_RAW"]
        sets = dict.fromkeys(("bounding", "effective", "permitted"), every)
        config = {
            "ociVersion": "1.0.2",
            "process": {
                "args": ["sh", "-c", script], "cwd": "/", "user": {"uid": 0, "gid": 0},
                "env": ["PATH=/bin"], "capabilities": sets,
            },
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": [{"type": "mount"}]},
            "annotations": {
                "io.kubernetes.cri.container-type": "sandbox",
                "io.kubernetes.cri.sandbox-id": "other",
                "dev.gvisor.flag.network": "host",
            },
            **changes,
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def test_a_foreign_bundle_reaches_what_is_allowed(
    gvisor: Gvisor, foreign: Callable[..., Path], echo: int  # noqa: F811
) -> None:  # fmt: skip
    """Its annotations steer nothing, and it sees no process of the relay's."""
    folder = foreign(f"echo $$ /proc/[0-9]*; echo -n abc | nc 127.0.0.1 {echo}")
    allow = [f"127.0.0.1:{echo}"]
    (folder / "rootfs/etc/hosts").unlink(missing_ok=True)
    bundle = Bundle.open(folder)
    with pytest.raises(InvalidBundle, match='"/etc/hosts" does not exist in the root file system'):
        gvisor.run_bundle(bundle, allow=allow)
    (folder / "rootfs/etc/hosts").write_text("")
    done = gvisor.run_bundle(bundle, allow=allow)
    assert done.stdout == "1 /proc/1\nabcthat was all", done.stderr
    assert done.egress is not None
    assert done.egress.reached == tuple(allow)
    assert (folder / "rootfs/etc/hosts").read_text() == ""


def test_the_death_of_the_relay_on_the_host_is_an_error(running: Start) -> None:
    """The workload goes on without a network. At its end, nobody knows what it has reached."""
    run = running(allow=["127.0.0.1:9"])
    (relay,) = [pid for pid in children_of_self() if any("relay.py" in w for w in words_of(pid))]
    os.kill(relay, signal.SIGKILL)
    with pytest.raises(LaunchError, match="relay: it does not answer"):
        run.end()
    assert left_of(run.gvisor) == []


def below(pid: int) -> list[int]:
    """The descendants of a process."""
    return [one for child in children_of(pid) for one in (child, *below(child))]


@pytest.mark.parametrize("which", ["relay/bundle", "bundle"])
def test_the_death_of_a_gofer_is_a_crash(running: Start, which: str) -> None:
    """Neither container's gofer passes for the workload's end."""
    run = running(allow=["127.0.0.1:9"])
    bundle = f"{os.path.dirname(run.root)}/{which}"
    lines = {pid: " ".join(words_of(pid)) + " " for pid in below(run.keeper)}
    (gofer,) = [pid for pid, line in lines.items() if " gofer " in line and f"{bundle} " in line]
    wait_for(lambda: gofer in watched(), "the gofer to be watched")
    sentry = next(p for p, line in lines.items() if " boot " in line and run.root in line)
    stop(sentry)  # it reports nothing before the gofer's end
    os.kill(gofer, signal.SIGKILL)
    with pytest.raises(SandboxCrashed):
        run.wait()


def test_the_death_of_the_keeper_leaves_nothing(gvisor: Gvisor, running: Start) -> None:
    """Neither ``runsc`` outlives it, and their files are removed."""
    run = running(allow=["127.0.0.1:9"])
    os.kill(run.keeper, signal.SIGKILL)
    with pytest.raises(GvisorError):
        run.wait()
    assert left_of(gvisor) == []
    assert not os.path.exists(os.path.dirname(run.root))

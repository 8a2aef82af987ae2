"""`Sandbox.exec`: statuses, streams, environment, folder, user, many at once."""

import inspect
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_gvisor import (
    Completed,
    Gvisor,
    InsideError,
    NotReady,
    Outcome,
    PytestGvisorWarning,
    Sandbox,
    UsageError,
    WorkloadFailed,
    WorkloadTimeout,
    is_gvisor_kernel,
)
from pytest_gvisor.sandbox import execution, process
from tests.runsc.conftest import PATIENCE
from tests.sandbox.conftest import alive


def test_many_programs_run_in_one_sandbox(gvisor_sandbox: Sandbox) -> None:
    """Programs run on gVisor's kernel, and share the files of their sandbox."""
    assert is_gvisor_kernel(gvisor_sandbox.exec(["uname", "-r"]).stdout.removesuffix("\n"))
    gvisor_sandbox.exec(["sh", "-c", "echo kept > /tmp/file"], check=True)
    done = gvisor_sandbox.exec(["cat", "/tmp/file"])
    assert isinstance(done, Completed)
    assert (done.returncode, done.stdout, done.stderr) == (0, "kept\n", "")
    assert (done.outcome, done.exact, done.truncated) == (Outcome.EXITED, True, False)
    assert done.args == ("cat", "/tmp/file")


def test_a_status_is_exact(gvisor_sandbox: Sandbox) -> None:
    """Every exit status is itself, and a signal is no exit status: 137 is not -9."""
    codes = [0, 1, 2, 126, 127, 128, 130, 137, 139, 143, 254, 255]
    for code in codes:
        done = gvisor_sandbox.exec(["sh", "-c", f"exit {code}"])
        assert (done.returncode, done.outcome, done.exact) == (code, Outcome.EXITED, True)
    for number in (1, 6, 9, 11, 15):
        done = gvisor_sandbox.exec(["sh", "-c", f"kill -{number} $$"])
        assert (done.returncode, done.outcome, done.exact) == (-number, Outcome.SIGNALLED, True)


def test_streams_are_exact_and_apart(gvisor_sandbox: Sandbox) -> None:
    """Binary output and input come through as they are, on the stream where they belong."""
    data = os.urandom(3_000_000)
    done = gvisor_sandbox.exec(["sh", "-c", "tee /dev/stderr"], input=data)
    assert (done.stdout_bytes, done.stderr_bytes) == (data, data)


def test_input_may_be_text_pieces_or_nothing(gvisor_sandbox: Sandbox) -> None:
    """A program without input reads an empty stream, and unread input blocks nobody."""

    def pieces() -> Iterator[bytes]:
        yield b"a"
        yield b""
        yield b"b"

    assert gvisor_sandbox.exec(["cat"]).stdout == ""
    assert gvisor_sandbox.exec(["cat"], input="é\n").stdout == "é\n"
    assert gvisor_sandbox.exec(["cat"], input=pieces()).stdout == "ab"
    assert gvisor_sandbox.exec(["cat"], input=b"").stdout == ""
    assert gvisor_sandbox.exec(["true"], input=b"x" * 20_000_000).returncode == 0


def test_the_environment_is_fixed_and_can_be_added_to(gvisor: Gvisor) -> None:
    """The sandbox's and the program's come on top of the fixed one; commas are nothing special."""
    with gvisor.sandbox(env={"A": "of the sandbox", "B": "too"}) as sandbox:
        env = {"A": "x,y=z, 'q' \n", "C": ""}
        done = sandbox.exec(["env", "-0"], env=env)
        found = dict(pair.split("=", 1) for pair in done.stdout.rstrip("\0").split("\0"))
    plain = gvisor.run(["env", "-0"])
    fixed = dict(pair.split("=", 1) for pair in plain.stdout.rstrip("\0").split("\0"))
    mark = found.pop("PYTEST_GVISOR_EXEC")
    assert len(mark) == 16
    assert found == {**fixed, "B": "too", **env}


def test_cwd_and_user_are_the_sandbox_s_or_the_call_s(gvisor: Gvisor) -> None:
    """Each is the default for all, and can be another one for one."""
    script = ["sh", "-c", 'echo "$(pwd) $(id -u):$(id -g) $(id -G) $HOME"']
    with gvisor.sandbox(cwd="/usr", user=(1000, 1001)) as sandbox:
        assert sandbox.exec(script).stdout == "/usr 1000:1001 1001 /tmp\n"
        assert sandbox.exec(script, cwd="/tmp", user=0).stdout == "/tmp 0:0 0 /root\n"
        assert sandbox.exec(script, user="7:8").stdout == "/usr 7:8 8 /tmp\n"
        assert sandbox.exec(["whoami"]).stdout == "user\n"
        assert sandbox.exec(script).stdout == "/usr 1000:1001 1001 /tmp\n"


def test_another_user_has_no_rights_left(gvisor_sandbox: Sandbox) -> None:
    """Another user has no capability, cannot become root again, and cannot read root's files."""
    gvisor_sandbox.put("/root/secret", "x", mode=0o600)
    script = (
        "import os\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print([l.split()[1] for l in lines if l.startswith(('CapPrm', 'CapEff'))])\n"
        "for act in (lambda: os.setuid(0), lambda: open('/root/secret'), lambda: os.kill(1, 9)):\n"
        "    try: act(); print('done')\n"
        "    except PermissionError: print('refused')\n"
    )
    done = gvisor_sandbox.exec(["python3", "-c", script], user=1000)
    none = "0" * 16
    assert done.stdout == f"['{none}', '{none}']\nrefused\nrefused\nrefused\n", done.stderr
    assert gvisor_sandbox.exec(["id", "-u"]).stdout == "0\n"


REFUSED = {
    ("/no/such/program",): "ENOENT",
    ("no-such-program",): "ENOENT",
    ("/etc/passwd",): "EACCES",
    ("/etc",): "EACCES",
}


def test_what_cannot_be_started_is_an_error_of_its_own(gvisor_sandbox: Sandbox) -> None:
    """The error names the program and the kernel's reason, and the sandbox goes on."""
    for args, word in REFUSED.items():
        with pytest.raises(InsideError, match=word) as caught:
            gvisor_sandbox.exec(args)
        assert args[0] in str(caught.value)
    with pytest.raises(InsideError, match="ENOENT"):
        gvisor_sandbox.exec(["true"], cwd="/no/such/folder")
    assert gvisor_sandbox.exec(["true"]).returncode == 0


SENSELESS: list[dict[str, Any]] = [
    {"args": []}, {"args": "true"}, {"args": ["a\0b"]}, {"args": [""]}, {"args": ["\ud800"]},
    {"args": ["true"], "env": {"A=": "b"}}, {"args": ["true"], "env": {"A": "b\0"}},
    {"args": ["true"], "cwd": "tmp"}, {"args": ["true"], "user": -1},
    {"args": ["true"], "timeout": -1}, {"args": ["true"], "input": 5},
    {"args": ["true"], "cwd": "/a\0b"}, {"args": ["true"], "cwd": "/\ud800"},
    {"args": ["true"], "cwd": b"/"},
]  # fmt: skip


def test_what_cannot_be_meant_is_refused(gvisor_sandbox: Sandbox) -> None:
    """Senseless options are refused before anything starts."""
    for options in SENSELESS:
        with pytest.raises(UsageError):
            gvisor_sandbox.exec(**options)
    assert gvisor_sandbox.exec(["true"]).returncode == 0


def test_a_path_is_searched_in_the_program_s_environment(gvisor_sandbox: Sandbox) -> None:
    """PATH is that of the call; its folder need not be one of the fixed ones."""
    gvisor_sandbox.put("/opt/tools/mine", "#!/bin/sh\necho mine\n", mode=0o755)
    with pytest.raises(InsideError):
        gvisor_sandbox.exec(["mine"])
    done = gvisor_sandbox.exec(["mine"], env={"PATH": "/no/such:/opt/tools"})
    assert done.stdout == "mine\n"


def test_arguments_are_passed_as_they_are(gvisor_sandbox: Sandbox) -> None:
    """Empty ones, newlines, bytes that are no text, and more than a frame of them."""
    odd = ["", "\n", "é", "\udcff", "-n", "a b", "x" * 100_000, "y" * 100_000, "z" * 100_000]
    done = gvisor_sandbox.exec(["printf", "%s|", *odd])
    assert done.stdout_bytes == b"".join(os.fsencode(word) + b"|" for word in odd)


def test_check_raises_for_another_status_than_0(gvisor_sandbox: Sandbox) -> None:
    """The exception has the output, as with `Gvisor.run`."""
    with pytest.raises(WorkloadFailed, match="exit status 3") as caught:
        gvisor_sandbox.exec(["sh", "-c", "echo out; exit 3"], check=True)
    assert caught.value.stdout == "out\n"


def test_programs_run_at_the_same_time(gvisor_sandbox: Sandbox) -> None:
    """Eight threads share one sandbox, and each gets its own output."""

    def work(name: int) -> None:
        for turn in range(6):
            done = gvisor_sandbox.exec(["sh", "-c", f"cat; exit {turn}"], input=f"{name}-{turn}")
            assert (done.stdout, done.returncode) == (f"{name}-{turn}", turn)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


TREE = """
trap '' TERM
setsid sh -c 'trap "" TERM; sleep 777 & sleep 777' &
sh -c 'trap "" TERM; env -i setsid /bin/sleep 777' &
(setsid setsid sleep 777 &)
echo began
sleep 777; sleep 777
"""


def timed_out(sandbox: Sandbox, script: str) -> WorkloadTimeout:
    """The error of a script that says something at once, with a longer try on a busy machine."""
    for timeout in (2, 20):
        with pytest.raises(WorkloadTimeout, match=f"after {timeout} s") as caught:
            sandbox.exec(["sh", "-c", script], timeout=timeout)
        if caught.value.stdout:
            break
    return caught.value


def test_a_time_out_kills_the_tree_and_leaves_the_sandbox(gvisor_sandbox: Sandbox) -> None:
    """Sessions of their own, orphans and cleared environments do not survive; the rest does."""
    with gvisor_sandbox.popen(["sleep", "555"]) as other:
        gvisor_sandbox.put("/tmp/kept", "kept")
        error = timed_out(gvisor_sandbox, TREE)
        assert error.stdout == "began\n"
        assert error.completed.outcome is Outcome.TIMED_OUT
        assert "with all that it had started" in str(error)
        assert alive(gvisor_sandbox, "777") == []
        assert len(alive(gvisor_sandbox, "555")) == 1
        assert other.poll() is None
    assert gvisor_sandbox.get("/tmp/kept") == b"kept"
    assert gvisor_sandbox.alive


def test_a_time_out_stays_one_whatever_is_said_then(
    gvisor_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM comes first, output after it is kept, and an exit with 0 is no pass."""
    monkeypatch.setattr(execution, "TERM_GRACE", PATIENCE)
    script = "trap 'echo bye; exit 0' TERM; echo hi; while :; do sleep 0.02; done"
    error = timed_out(gvisor_sandbox, script)
    assert error.stdout == "hi\nbye\n"
    assert error.completed.outcome is Outcome.TIMED_OUT


@pytest.mark.parametrize("args", [["cat"], ["sleep", "60"]], ids=["reads", "does-not-read"])
def test_input_does_not_outlast_the_deadline(gvisor_sandbox: Sandbox, args: list[str]) -> None:
    """Neither endless input nor a program that does not read it delays the call's end."""

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 100_000

    with pytest.raises(WorkloadTimeout):
        gvisor_sandbox.exec(args, input=endless(), timeout=0.5)
    assert gvisor_sandbox.exec(["true"]).returncode == 0


def test_an_error_of_the_input_ends_the_program(gvisor_sandbox: Sandbox) -> None:
    """An error of the caller's own iterator is raised again, and no program runs on."""

    def broken() -> Iterator[bytes]:
        yield b"x"
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        gvisor_sandbox.exec(["sh", "-c", "cat; sleep 333"], input=broken())
    assert alive(gvisor_sandbox, "333") == []


def test_a_stopped_guest_is_replaced_and_that_is_said(
    gvisor_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole sandbox is killed if nobody can confirm the end of a process tree."""
    monkeypatch.setattr(process, "KILL_CONFIRM", 2.0)
    gvisor_sandbox.put("/tmp/gone", "x")
    for timeout in (0.5, 50):  # a busy machine may take longer to stop it
        with pytest.raises(WorkloadTimeout) as caught:
            gvisor_sandbox.exec(["sh", "-c", "kill -STOP 1; sleep 600"], timeout=timeout)
        if (killed := "the whole sandbox has been killed") in str(caught.value):
            break
    assert killed in str(caught.value)
    with pytest.warns(PytestGvisorWarning, match="another one takes its place"):
        assert gvisor_sandbox.exec(["echo", "fresh"]).stdout == "fresh\n"
    with pytest.raises(InsideError, match="ENOENT"):
        gvisor_sandbox.get("/tmp/gone")


def test_a_wait_in_the_input_that_fails_is_no_time_out(gvisor_sandbox: Sandbox) -> None:
    """An iterable may wait for something in a sandbox, in vain. The program has time left."""

    def pieces() -> Iterator[bytes]:
        yield b"first"
        gvisor_sandbox.wait_for_port(81, timeout=0.2)

    with pytest.raises(NotReady, match="nothing listens on port 81"):
        gvisor_sandbox.exec(["cat"], input=pieces())
    assert gvisor_sandbox.exec(["echo", "well"]).stdout == "well\n"


def test_what_is_left_running_runs_on(gvisor_sandbox: Sandbox) -> None:
    """A program ends with its first process; a daemon of it lives, and its output goes nowhere."""
    script = "(until [ -e /tmp/go ]; do sleep 0.01; done; echo late; touch /tmp/did) & echo early"
    done = gvisor_sandbox.exec(["sh", "-c", script])
    assert (done.returncode, done.stdout) == (0, "early\n")
    wait = "touch /tmp/go; until [ -e /tmp/did ]; do sleep 0.01; done"
    assert gvisor_sandbox.exec(["sh", "-c", wait], timeout=20).stdout == ""


def test_orphans_are_reaped(gvisor_sandbox: Sandbox) -> None:
    """The guest is init: an orphan leaves no zombie."""
    script = "for i in 1 2 3 4 5; do (sleep 0.05 &); done"
    gvisor_sandbox.exec(["sh", "-c", script], check=True)
    look = (
        "import os, time\n"
        "def stat(p):\n"
        "    try: return open(f'/proc/{p}/stat').read()\n"
        "    except OSError: return '1 (gone) S'\n"
        "def zombies():\n"
        "    stats = [stat(p) for p in os.listdir('/proc') if p.isdigit()]\n"
        "    dead = [s for s in stats if s.rpartition(')')[2].split()[0] in 'ZX']\n"
        "    return dead + [s for s in stats if '(sleep)' in s]\n"
        "end = time.monotonic() + 20\n"
        "while zombies() and time.monotonic() < end: time.sleep(0.02)\n"
        "print(zombies())\n"
    )
    assert gvisor_sandbox.exec(["python3", "-c", look]).stdout == "[]\n"


def test_a_gibibyte_of_output_takes_no_memory(
    gvisor_sandbox: Sandbox, *, is_first_platform: bool
) -> None:
    """The kept output is bounded, in the guest and on the host."""
    size = 1 << (30 if is_first_platform else 26)

    def peak() -> int:
        with open("/proc/self/status", encoding="ascii") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    def guest() -> int:
        lines = gvisor_sandbox.exec(["cat", "/proc/1/status"]).stdout.splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    gvisor_sandbox.exec(["head", "-c", "40000000", "/dev/zero"])
    before, inside = peak(), guest()
    script = f"import os\nb = b'x' * (1 << 20)\nfor _ in range({size >> 20}): os.write(1, b)\n"
    done = gvisor_sandbox.exec(["python3", "-c", script], timeout=120)
    assert (done.stdout_total, done.truncated) == (size, True)
    assert len(done.stdout_bytes) == 16 << 20
    assert peak() - before < 160 * 1024, "kibibytes; what is kept is 16 MiB, and as much as text"
    assert guest() - inside < 20 * 1024, "kibibytes"


def test_a_sandbox_takes_what_a_run_takes_but_what_runs() -> None:
    """A sandbox takes the arguments of `run`, apart from argv, input, check and entrypoint.

    It can be a copy of a saved one.
    """
    run, sandbox = (inspect.signature(f).parameters for f in (Gvisor.run, Gvisor.sandbox))
    assert run.keys() - sandbox.keys() == {"args", "input", "check", "entrypoint"}
    assert sandbox.keys() - run.keys() == {"snapshot"}

"""The traces of programs in a real warm sandbox: each has what its own processes did."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_gvisor import (
    Gvisor,
    InsideError,
    Sandbox,
    SandboxCrashed,
    Trace,
    TraceError,
    UsageError,
)
from pytest_gvisor.base import errors
from pytest_gvisor.base.settings import replaced
from pytest_gvisor.harness import gvisor as harness
from pytest_gvisor.run.request import check_forbidden
from pytest_gvisor.sandbox import execution
from tests.runsc.test_trace import HIDDEN, did_by_its_deadline
from tests.sandbox.conftest import sentry

WRITES = "import os, sys; os.system(f'/bin/true {sys.argv[1]}'); open(f'/tmp/{sys.argv[1]}', 'w')"


def python(box: Sandbox, code: str, *words: str) -> Trace:
    """The trace of a Python program that imports nothing by itself, and ends well."""
    trace = box.exec(["python3", "-I", "-S", "-c", code, *words], check=True).trace
    assert trace is not None
    return trace


def test_a_sandbox_without_traces_refuses_one(gvisor: Gvisor) -> None:
    """Such a sandbox has no trace points, so it costs nothing."""
    with gvisor.sandbox() as box:
        assert box.exec(["true"]).trace is None
        with pytest.raises(UsageError, match=r"gvisor\.sandbox\(trace=True\)"):
            box.exec(["true"], trace=True)


@pytest.mark.gvisor(trace=True)
def test_a_program_has_its_own_unimplemented_calls(gvisor_sandbox: Sandbox) -> None:
    """The calls of an earlier program are not among them."""
    call = ["python3", "-I", "-S", "-c", "import os; os.sched_rr_get_interval(0)"]
    found = [gvisor_sandbox.exec(args).trace for args in (call, ["true"])]
    assert [one and one.unsupported for one in found] == [("sched_rr_get_interval",), ()]


def test_a_forbidden_act_fails_the_program_that_did_it(gvisor: Gvisor) -> None:
    """A call cannot do without the trace, nor through popen. The sandbox goes on."""
    box = gvisor.sandbox(forbid=["exec", "write:/etc/**"])
    done = box.exec(["sh", "-c", ": > /tmp/made"], trace=False)
    assert done.trace is not None
    assert done.trace.written == {"/tmp/made"}
    with pytest.raises(AssertionError, match=r"created: /etc/made, by process \d+ \(sh -c"):
        box.exec(["sh", "-c", ": > /etc/made"], trace=False)
    with pytest.raises(AssertionError, match=r"executed: /\S+/true, by process \d+ below \d+ \(sh"):
        box.exec(["sh", "-c", "/bin/true; exit 3"], check=True)
    late = did_by_its_deadline(lambda s: box.exec(["sh", "-c", "true; exec sleep 60"], timeout=s))
    assert late.startswith("executed: ")
    with pytest.raises(TraceError, match="had not ended"):
        box.exec(["sh", "-c", "(sleep 60)& exit"])
    with pytest.raises(InsideError):
        box.exec(["no-such-program"])
    with pytest.raises(UsageError, match=r"forbid=\('exec', 'write:/etc/\*\*'\): popen has no"):
        box.popen(["true"])


@pytest.mark.parametrize("warm", [False, True])
def test_an_end_comes_after_the_checks_of_other_threads(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch, *, warm: bool
) -> None:
    """Else a test could end before an act of its own is known."""
    checking = threading.Event()

    def check(*given: Any) -> None:
        checking.set()
        time.sleep(0.5)
        check_forbidden(*given)

    def use() -> None:
        with pytest.raises(AssertionError, match="connected"):
            run(["python3", "-I", "-S", "-c", connect])

    connect = 'import socket; socket.socket().connect_ex(("127.0.0.1", 9))'
    for module in (execution, harness):
        monkeypatch.setattr(module, "check_forbidden", check)
    monkeypatch.setattr(gvisor, "settings", replaced(gvisor.settings, {"forbid": ["connect"]}))
    box = gvisor.sandbox() if warm else gvisor
    run = box.exec if isinstance(box, Sandbox) else box.run
    thread = threading.Thread(target=use)
    thread.start()
    assert checking.wait(60)
    gvisor.close()
    ((act, _),) = errors.forbidden
    assert "connected: 127.0.0.1:9 (ECONNREFUSED)" in act
    thread.join()


@pytest.mark.parametrize("user", [None, 1000])
def test_a_trace_has_the_program_and_its_children(gvisor: Gvisor, user: int | None) -> None:
    """Nothing of the guest, nor of another program."""
    with gvisor.sandbox(trace=True, user=user) as box:
        box.put("/tmp/of-the-guest", "")
        for name in ("a", "b"):
            trace = python(box, WRITES, name)
            assert trace.complete, trace
            assert trace.written == {f"/tmp/{name}"}
            assert ["/bin/true", name] in trace.commands
            assert trace.executed[0].program.startswith("/usr/bin/python3")
            assert trace.processes[0].parent == 0
            trace.check(write=[f"/tmp/{name}"], execute=["sh", "dash", "bash", "true"], connect=[])


def test_programs_at_the_same_time_have_their_own_traces(gvisor: Gvisor) -> None:
    """Ten threads use one sandbox. A `popen` in it has no trace, and is in none."""
    traces: dict[str, Trace] = {}

    def use(name: str) -> None:
        traces[name] = python(box, WRITES, name)

    busy = ["sh", "-c", "while :; do : > /tmp/popen; done"]
    with gvisor.sandbox(trace=True) as box, box.popen(busy):
        users = [threading.Thread(target=use, args=(f"n{n}",)) for n in range(10)]
        for one in users:
            one.start()
        for one in users:
            one.join()
    assert {name: trace.written for name, trace in traces.items()} == {
        f"n{n}": {f"/tmp/n{n}"} for n in range(10)
    }
    assert all(trace.complete for trace in traces.values())


def test_a_child_that_runs_on_makes_a_gap(gvisor: Gvisor) -> None:
    """The child may still do anything, so a check is an error. No later trace has the child."""
    with gvisor.sandbox(trace=True) as box:
        trace = box.exec(["sh", "-c", "(while :; do : > /tmp/later; done) & true"]).trace
        assert trace is not None
        assert trace.gaps == ("1 of its processes had not ended",)
        with pytest.raises(TraceError, match="had not ended"):
            trace.check()
        after = python(box, "")
        assert (after.complete, after.written) == (True, frozenset())


def test_an_orphan_is_of_the_program_that_it_comes_from(gvisor: Gvisor) -> None:
    """Its parent has ended, so the guest is its parent now."""
    with gvisor.sandbox(trace=True) as box:
        trace = python(
            box,
            "import os\nreader, writer = os.pipe()\nif not os.fork():\n    if not os.fork():\n"
            "        open('/tmp/orphan', 'w').close()\n        os.write(writer, b'x')\n"
            "    os._exit(0)\nos.wait()\nos.read(reader, 1)",
        )
    assert trace.written == {"/tmp/orphan"}


@pytest.mark.parametrize("code", HIDDEN.values(), ids=HIDDEN)
def test_an_event_that_gvisor_cannot_encode_makes_a_gap_in_its_own_trace(
    gvisor: Gvisor, code: str
) -> None:
    """gVisor neither sends nor counts it. The call is known by its number and its process."""
    with gvisor.sandbox(trace=True) as box:
        (gap,) = python(box, f"import os; {code}").gaps
        assert "cannot report" in gap or "can report" in gap
        assert python(box, "").complete


def test_changes_belong_to_the_program_that_made_them(gvisor: Gvisor) -> None:
    """The end of a call says whose it is on each release, also after the guest's own calls."""
    code = "import os\nfor name in 'ab': os.mkdir(f'/tmp/{name}')\nos.path.exists('/tmp/a')"
    with gvisor.sandbox(trace=True) as box:
        box.put("/tmp/folder/of-the-guest", "")
        made = python(box, code)
        none = python(box, "")
        failed = box.exec(["rmdir", "/tmp/missing"]).trace
    assert failed is not None
    assert [(one.call, one.error, one.count) for one in made.changes] == [("mkdir", "", 2)]
    assert [one.process for one in made.changes] == [made.processes[0].pid]
    assert (none.changes, made.unverified) == ((), ())
    assert [(one.call, one.error, one.count) for one in failed.changes] == [("rmdir", "ENOENT", 1)]


def test_a_program_whose_sandbox_crashes_has_an_incomplete_trace(gvisor: Gvisor) -> None:
    """Its end was not reported."""

    def crash() -> Iterator[bytes]:
        yield b"x"
        os.kill(sentry(gvisor), signal.SIGKILL)
        yield b"x"

    with gvisor.sandbox(trace=True) as box, pytest.raises(SandboxCrashed) as caught:
        box.exec(["sh", "-c", ": > /tmp/begun; cat"], input=crash())
    trace = caught.value.completed.trace
    assert trace is not None
    assert "the end of the first process was not seen" in trace.gaps


def test_a_copy_of_a_saved_sandbox_can_be_traced(gvisor: Gvisor) -> None:
    """Even if the saved one was not."""
    with (
        gvisor.sandbox() as box,
        box.snapshot() as saved,
        gvisor.sandbox(snapshot=saved, trace=True) as copy,
    ):
        trace = python(copy, WRITES, "copied")
    assert trace.written == {"/tmp/copied"}
    assert trace.complete

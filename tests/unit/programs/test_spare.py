"""The child that is forked ahead: the next run uses it, and is the same as without it."""

import json
import os
import signal
import time
from collections.abc import Callable

import pytest

from pytest_gvisor.programs import child
from pytest_gvisor.programs.proc import children_of, stat_of
from pytest_gvisor.programs.spare import Spare
from tests.unit.programs.test_keeper import Caller, caller, hear, hear_out
from tests.waiting import wait_for, wait_for_end

__all__ = ["caller"]

STATE = """
exec > "$2"
grep -E "^(NoNewPrivs|Threads|Sig(Blk|Ign|Cgt)):" /proc/self/status
umask
pwd
ls /proc/$$/fd
read -r pid name state parent group session rest < /proc/$$/stat
[ "$pid" = "$session" ] && [ "$pid" = "$group" ] && echo leads
"""


def spare_of(caller: Caller) -> int:
    """The child that waits for the next order; no run goes on."""
    wait_for(lambda: len(children_of(caller.keeper.pid)) == 1, "one child ahead")
    (spare,) = children_of(caller.keeper.pid)
    wait_for(lambda: waits(spare), "the child to be ready")
    return spare


def waits(spare: int) -> bool:
    """Whether it leads a session of its own, and sleeps: until then it is taken for lost."""
    found = stat_of(spare)
    return found is not None and found.state == "S" and os.getsid(spare) == spare


def after_one(caller: Caller) -> int:
    """The child that waits after a first run."""
    assert not children_of(caller.keeper.pid)
    assert hear_out(caller.shell("exit 0"))[-1] == {"state": "cleaned", "leaks": []}
    return spare_of(caller)


def test_the_next_run_is_the_child_that_was_forked_ahead(caller: Caller) -> None:
    """The first run forks its own; afterwards one child waits at a time."""
    spare = after_one(caller)
    for number in range(3):
        heard = hear_out(caller.shell("exit 3", name=f"g{number}"))
        assert heard == [
            {"state": "spawned", "pid": spare},
            {"state": "exited", "status": 3 << 8},
            {"state": "cleaned", "leaks": []},
        ]
        spare = spare_of(caller)


def test_a_run_is_the_same_with_and_without_a_child_ahead(caller: Caller) -> None:
    """Signals, umask, folder, session, descriptors and no-new-privs of the program."""
    found = []
    for name in ("first", "second"):
        path = f"{caller.session}/{name}.txt"
        request = caller.request("sh", "-c", STATE, "sh", "x", path, name=name)
        hear_out(caller.send(json.dumps(request).encode()))
        with open(path, encoding="ascii") as file:
            found.append(file.read())
        os.unlink(path)
        spare_of(caller)
    assert found[0] == found[1]
    assert "NoNewPrivs:\t1" in found[0]
    assert found[0].endswith("leads\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_run_is_started_without_the_child_ahead_if_that_is_lost(
    caller: Caller, number: signal.Signals
) -> None:
    """A dead one is replaced at once, and a stopped one goes on when it is woken."""
    spare = after_one(caller)
    os.kill(spare, number)
    if number == signal.SIGKILL:
        wait_for_end(spare)
        heard = hear_out(caller.shell("exit 3"))
        assert heard[1] == {"state": "exited", "status": 3 << 8}
        return
    control = caller.shell("exit 3")
    time.sleep(0.05)
    os.kill(spare, signal.SIGCONT)
    assert hear(control) == {"state": "spawned", "pid": spare}
    assert hear_out(control)[0] == {"state": "exited", "status": 3 << 8}


def dies(_parent: int) -> None:
    """Fail after the order has come."""
    time.sleep(0.01)
    os._exit(127)


def sleeps(_parent: int) -> None:
    """Take long."""
    time.sleep(1000)


@pytest.mark.parametrize("settle", [dies, sleeps])
def test_a_child_ahead_that_is_not_ready_takes_no_order(
    monkeypatch: pytest.MonkeyPatch, settle: Callable[[int], None]
) -> None:
    """The keeper waits for nobody: it forks another one, which reports a step that fails."""
    monkeypatch.setattr(child, "settle", settle)
    made = Spare()
    with open(os.devnull, "rb") as null:
        assert not made.take(b"{}", [null.fileno()] * 4, error_pipe=null.fileno())
    os.kill(made.pid, signal.SIGKILL)
    os.waitpid(made.pid, 0)


def test_a_run_can_be_killed_while_the_child_ahead_is_stopped(caller: Caller) -> None:
    """The deadline of a run holds whatever its child does."""
    spare = after_one(caller)
    os.kill(spare, signal.SIGSTOP)
    control = caller.shell("exit 3")
    control.send(b'{"op": "kill"}')
    states = [said["state"] for said in hear_out(control)]
    assert states[-2:] == ["exited", "cleaned"]


def test_the_child_ahead_holds_nothing_of_the_keeper(caller: Caller) -> None:
    """Neither the session's lock nor the socket to pytest, whose end tells the keeper's death."""
    spare = after_one(caller)
    fds = f"/proc/{spare}/fd"
    wait_for(lambda: {*os.listdir(fds)} == {*"0123"}, "four descriptors")
    kinds = {os.readlink(f"/proc/{spare}/fd/{fd}") for fd in (0, 1, 2)}
    assert kinds == {os.devnull}


@pytest.mark.parametrize("killed", [False, True])
def test_the_child_ahead_ends_with_the_keeper(caller: Caller, killed: bool) -> None:
    """The child ends if the keeper leaves, and if the keeper is killed."""
    spare = after_one(caller)
    if killed:
        os.kill(caller.keeper.pid, signal.SIGKILL)
    caller.keeper.close()
    wait_for(lambda: (stat := stat_of(spare)) is None or stat.state == "Z", "the child's end")


def test_no_child_is_forked_ahead_while_a_run_goes_on(caller: Caller) -> None:
    """Such a child would get the descriptors of the run."""
    going_on = caller.shell("read x < /dev/zero; sleep 60", name="long")
    assert hear(going_on)["state"] == "spawned"
    hear_out(caller.shell("exit 0", name="short"))
    assert len(children_of(caller.keeper.pid)) == 1
    going_on.send(b'{"op": "kill"}')
    hear_out(going_on)
    spare_of(caller)

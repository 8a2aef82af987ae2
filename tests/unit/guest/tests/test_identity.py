"""The user of a pytest inside: maps of ids, and refusals of the kernel."""

import errno
import itertools
import json
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.guest.tests import identity
from pytest_gvisor.guest.tests.identity import Change, Identity, Refused

MOST_LINES = 5
"""What gVisor takes: maxIDMapLines in pkg/sentry/fsimpl/proc."""


def someone(**fields: Any) -> Identity:
    """An identity with these fields."""
    usual = {
        "uid": 1000, "gid": 1001, "groups": [], "home": "/home/user", "nested": True, "others": 0,
        "roots": [],
    }  # fmt: skip
    return Identity(**{**usual, **fields})


def outside(text: str, inside: int) -> int | None:
    """The number to which a map leads."""
    for line in text.splitlines():
        first, lower, size = map(int, line.split())
        if first <= inside < first + size:
            return lower + inside - first
    return None


def test_the_argument_of_the_program_is_the_identity() -> None:
    """Without an argument the user stays root."""
    assert identity.wanted([json.dumps(someone()._asdict())]) == someone()
    assert identity.wanted([]) is None


@pytest.mark.parametrize("uid", [1, 1000, 65534, 2**32 - 2])
def test_the_user_is_the_owner_of_its_files_and_root_of_the_others(uid: int) -> None:
    """The sandbox's 0 is the caller outside, and its 65534 is everybody else."""
    text = identity.uid_map(someone(uid=uid))
    assert outside(text, uid) == 0
    assert outside(text, 0) == 65534


@pytest.mark.parametrize("gid", [0, 1, 1001, 65534, 2**32 - 2])
@pytest.mark.parametrize("others", [0, 27, 65534])
@pytest.mark.parametrize(
    "groups", [[], [27], [0, 5, 27, 65534], [1001, 1002, 4_000_000_000], list(range(1, 60))]
)
def test_groups_have_a_number_each_that_no_file_has(
    gid: int, others: int, groups: list[int]
) -> None:
    """A user's groups lead to numbers of their own, in as few lines as gVisor takes."""
    who = someone(gid=gid, others=others, groups=groups)
    text = identity.gid_map(who)
    assert text.count("\n") <= MOST_LINES
    assert outside(text, gid) == 0
    if gid != others:
        assert outside(text, others) == 65534
    taken = {}
    for group, outer in zip(groups, identity.outer_groups(who), strict=True):
        assert outside(text, group) == outer
        taken[group] = outer
        assert (outer in (0, 65534)) is (group in (gid, others))
    assert len(set(taken.values())) == len(taken)
    ranges = sorted((int(line.split()[1]), int(line.split()[2])) for line in text.splitlines())
    for (first, size), (following, _) in itertools.pairwise(ranges):
        assert first + size <= following
    assert ranges[-1][0] + ranges[-1][1] < 2**32


def test_a_group_beyond_the_ranges_is_left_out() -> None:
    """A group whose number cannot be moved out of the way is none of the user's inside."""
    assert identity.outer_groups(someone(groups=[2**32 - 2, 7])) == [7 + (1 << 20)]


def fork(change: Change) -> Any:
    """The refusal that the child hears of, or None."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        found: Any = None
        try:
            change.become()
        except Refused as error:
            found = [error.errno, error.strerror]
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.close(writer)
    change.serve(pid)
    with os.fdopen(reader, "rb") as file:
        said = json.loads(file.read() or "null")
    os.waitpid(pid, 0)
    return said


@pytest.fixture
def harmless(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Kernel calls that do nothing; each may be replaced."""
    linux = SimpleNamespace(
        CLONE_NEWUSER=0, PR_SET_KEEPCAPS=8, CAP_KILL=5, CAP_DAC_OVERRIDE=1,
        unshare=lambda _: None, prctl=lambda *_: None, set_capabilities=lambda *_: None,
        empty_bounding_set=lambda: None,
    )  # fmt: skip
    monkeypatch.setattr(identity, "kernel_calls", lambda: linux)
    monkeypatch.setattr(os, "setgroups", lambda _: None)
    for name in ("setresuid", "setresgid"):
        monkeypatch.setattr(os, name, lambda *_: None)
    monkeypatch.setattr(Change, "_map", lambda *_: None)
    monkeypatch.setattr(Change, "_settle", lambda *_: None)
    monkeypatch.setattr(Change, "_verify", lambda _: None)
    return linux


def refuse(*_: object) -> None:
    """Fail as a kernel does that knows no such thing."""
    raise OSError(errno.ENOSYS, "Function not implemented")


def test_the_two_processes_come_to_an_end(harmless: SimpleNamespace) -> None:
    """If each step holds, neither process hears of an error."""
    assert fork(Change(someone())) is None
    assert fork(Change(someone(nested=False))) is None


@pytest.mark.parametrize("call", ["unshare", "empty_bounding_set", "set_capabilities"])
def test_a_refused_call_is_told_with_its_number(harmless: SimpleNamespace, call: str) -> None:
    """No step may be left out: without it the tests would have rights that they must not have."""
    change = Change(someone())
    setattr(harmless, call, refuse)
    change._keep_root_apart = lambda: None  # type: ignore[method-assign]
    number, text = fork(change)
    assert number == errno.ENOSYS
    assert "not implemented" in text


def test_a_child_that_is_gone_is_no_error_of_the_first_process(
    harmless: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that is killed meanwhile takes no answer."""

    def kill(_change: Change, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(Change, "_map", kill)
    assert fork(Change(someone(nested=False))) is None


@pytest.mark.parametrize("step", ["_map", "_settle"])
def test_a_refusal_to_the_first_process_is_told_too(
    harmless: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The first process cannot speak to the host, so its child does."""
    monkeypatch.setattr(Change, step, refuse)
    told = fork(Change(someone()))
    assert told[0] == errno.ENOSYS
    assert "not implemented" in told[1]


def test_ids_that_did_not_change_are_a_refusal(
    harmless: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that says it did something and did nothing is noticed."""
    monkeypatch.undo()
    change = Change(someone(uid=os.getuid() + 1))
    with pytest.raises(OSError, match="the ids are"):
        change._verify()
    change._first.close()
    change._child.close()

"""The kernel, or a seccomp filter around pytest, refuses a call: typed, and no way around it."""

import errno
import sys
from pathlib import Path

import pytest

from tests.faults.little import Little

TESTS = """
    import errno, os, resource, sys
    import pytest
    import pytest_gvisor
    sys.path.insert(0, SECCOMP)
    import seccomp

    def test_it(gvisor):
        assert gvisor.run(["true"]).returncode == 0
        before = set(os.listdir("/proc/self/fd"))
        START
        REFUSE
        for _ in range(2):
            with pytest.raises(pytest_gvisor.LaunchError) as caught:
                gvisor.run(["true"])
            assert (caught.value.stage, caught.value.errno) == (STAGE, ERRNO)
            assert CALL in str(caught.value)
        assert set(os.listdir("/proc/self/fd")) <= before
"""
NEW_KEEPER = (
    "os.kill(gvisor._launcher.keeper().pid, 9); os.waitpid(gvisor._launcher._keeper.pid, 0)"
)


def refusing(little: Little, refuse: str, stage: str, number: int, call: str = "") -> None:
    """Write the project: with a keeper that is started under the filter."""
    words = {
        "SECCOMP": repr(str(Path(__file__).parent)), "START": NEW_KEEPER, "REFUSE": refuse,
        "STAGE": repr(stage), "ERRNO": str(number), "CALL": repr(call),
    }  # fmt: skip
    text = TESTS
    for word, value in words.items():
        text = text.replace(word, value)
    little.write(test_it=text)


@pytest.mark.fault("D7")
@pytest.mark.parametrize(
    ("option", "stage"),
    [
        pytest.param(38, "no_new_privs", id="PR_SET_NO_NEW_PRIVS"),
        pytest.param(1, "session", id="PR_SET_PDEATHSIG"),
    ],
)
def test_a_refused_prctl_is_named_with_its_errno(
    any_little: Little, option: int, stage: str
) -> None:
    """A refused prctl is an error with its errno, and no process runs without that protection."""
    refuse = f"seccomp.refuse('prctl', errno.EPERM, {option})"
    refusing(any_little, refuse, stage, errno.EPERM, f"prctl({option}, ")
    any_little.run()
    assert any_little.left() == []


@pytest.mark.fault("D7")
@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("setsid", f"fork, setsid or execve of {sys.executable} was refused [ENOSYS"),
        ("pidfd_open", "pidfd_open was refused [ENOSYS"),
    ],
)
def test_a_call_that_the_keeper_s_start_needs_is_told_with_its_errno(
    any_little: Little, call: str, told: str
) -> None:
    """A refused call in the keeper's start names its errno, and nothing runs without a keeper."""
    refuse = f"seccomp.refuse({call!r}, errno.ENOSYS)"
    refusing(any_little, refuse, "keeper", errno.ENOSYS, told)
    any_little.run()
    assert any_little.left() == []


@pytest.mark.fault("D7")
def test_a_keeper_that_cannot_adopt_orphans_does_not_come_up(any_little: Little) -> None:
    """PR_SET_CHILD_SUBREAPER: without it, something could be left."""
    refusing(any_little, "seccomp.refuse('prctl', errno.EPERM, 36)", "keeper", errno.EPERM)
    any_little.run()
    assert any_little.left() == []


@pytest.mark.fault("D1", "D7")
def test_without_close_range_descriptors_are_closed_all_the_same(any_little: Little) -> None:
    """Without close_range, the keeper and runsc still inherit no descriptor of pytest's."""
    any_little.write(
        test_it=f"""
        import contextlib, os, sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import seccomp
        from pytest_gvisor.programs.proc import children_of as children  # of any thread of Go's

        def test_it(gvisor):
            secret = os.path.realpath("secret")
            held = os.open(secret, os.O_RDWR | os.O_CREAT)
            os.set_inheritable(held, True)
            {NEW_KEEPER}
            seccomp.refuse("close_range", {errno.ENOSYS})
            seen = {{}}

            def look():
                # The workload answers nothing here: it is up when runsc has children.
                keeper = gvisor._launcher._keeper.pid
                while not (runsc := [pid for pid in children(keeper) if children(pid)]):
                    yield b""
                for pid in (os.getpid(), keeper, *runsc):
                    folder = f"/proc/{{pid}}/fd"
                    seen[pid] = 0
                    for fd in os.listdir(folder):
                        with contextlib.suppress(OSError):  # it is closed by now
                            seen[pid] += os.readlink(f"{{folder}}/{{fd}}") == secret
                yield b"x"

            started = time.monotonic()
            done = gvisor.run(["cat"], input=look(), timeout=60)
            assert time.monotonic() - started < 50
            assert done.stdout == "x"
            assert list(seen.values()) == [1, 0, 0]
            os.close(held)
        """
    )
    any_little.run()
    assert any_little.left() == []


@pytest.mark.fault("G6")
def test_a_fork_that_fails_is_typed(any_little: Little) -> None:
    """A fork that fails with EAGAIN, a limit on processes, is an error before the deadline."""
    refusing(any_little, "seccomp.refuse_fork(errno.EAGAIN)", "fork", errno.EAGAIN)
    any_little.run()
    assert any_little.left() == []

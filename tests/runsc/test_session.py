"""A session without pytest, in a process of its own."""

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pytest_gvisor import Completed, Gvisor, Outcome, Platform, WorkloadTimeout, bind
from pytest_gvisor.programs.proc import children_of_self


def script(text: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script as a user does."""
    argv = [sys.executable, "-c", textwrap.dedent(text)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120)


def test_a_script_runs_workloads(gvisor: Gvisor, gvisor_platform: Platform) -> None:
    """A session has its settings, warm sandboxes included, and ends all that it has started."""
    done = script(f"""
        import os, pytest_gvisor

        with pytest_gvisor.session(
            platform={str(gvisor_platform)!r}, runsc={gvisor.runsc.path!r}, timeout=60, shm="1M"
        ) as gvisor:
            print(gvisor.platform, gvisor.run(["stat", "-fc", "%b", "/dev/shm"]).stdout, end="")
            print(gvisor.sandbox().exec(["echo", "warm"]).stdout, end="")
        children = open(f"/proc/self/task/{{os.getpid()}}/children").read()
        print("left:", children.split())
    """)
    assert (done.stdout, done.stderr) == (f"{gvisor_platform} 256\nwarm\nleft: []\n", "")


def test_an_error_in_the_block_ends_the_session_too() -> None:
    """An error in the block is raised, and the keeper is gone."""
    before = children_of_self()
    with pytest.raises(ZeroDivisionError):
        _divide()
    assert children_of_self() == before


def _divide() -> None:
    from pytest_gvisor import session

    with session() as gvisor:
        assert gvisor.run(["true"]).returncode == 0
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ("platform='systrap,ptrace'", "UsageError: a session runs on one platform"),
        ("platform='nope'", "UsageError"),
        ("runsc='/no/such'", "RunscNotFound"),
        ("networ='none'", "UsageError: 'networ' is not a setting"),
    ],
)
def test_a_session_that_cannot_be_had_is_a_typed_error(settings: str, error: str) -> None:
    """Nothing is yielded, and the error is one of the tree."""
    done = script(f"""
        import pytest_gvisor

        with pytest_gvisor.session({settings}):
            print("reached")
    """)
    assert done.stdout == ""
    assert f"pytest_gvisor.{error}" in done.stderr


def test_asyncio_awaits_workloads_that_run_at_once(gvisor: Gvisor, tmp_path: Path) -> None:
    """Each workload waits for the other one's file; errors are those of `run`."""

    async def both() -> list[str]:
        mounts = [bind(tmp_path, "/at", readonly=False)]
        script = "echo >/at/$0; while ! [ -e /at/$1 ]; do :; done; echo $0"
        args = [["sh", "-c", script, *names] for names in (("a", "b"), ("b", "a"))]
        done = await asyncio.gather(*(gvisor.arun(words, mounts=mounts) for words in args))
        with pytest.raises(WorkloadTimeout):
            await gvisor.arun(["sleep", "100"], timeout=0.1)
        return [one.stdout for one in done]

    assert asyncio.run(both()) == ["a\n", "b\n"]


@pytest.mark.parametrize("cancels", [True, False])
def test_a_cancelled_task_kills_its_workload(
    gvisor: Gvisor, tmp_path: Path, *, cancels: bool
) -> None:
    """By the test or by the end of asyncio.run, the sandbox is gone long before the deadline."""

    async def act() -> asyncio.Task[Completed]:
        mounts = [bind(tmp_path, "/at", readonly=False)]
        run = gvisor.arun(
            ["sh", "-c", "echo up; echo >/at/up; sleep 1000"], mounts=mounts, timeout=200
        )
        task = asyncio.create_task(run)
        while not (tmp_path / "up").exists():
            await asyncio.sleep(0.01)
        if cancels:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return task

    assert asyncio.run(act()).cancelled()
    completed = gvisor.records[-1].completed
    assert completed is not None
    assert (completed.outcome, completed.returncode) == (Outcome.CANCELLED, -9)
    assert (completed.stdout, completed.leaks) == ("up\n", ())

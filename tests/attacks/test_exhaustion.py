"""A workload that takes what the host has: its memory and its processes."""

import dataclasses
import errno
import gc
import itertools
import os
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor import (
    Gvisor,
    LaunchError,
    Sandbox,
    SandboxCrashed,
    UsageError,
    bind,
    session,
)
from pytest_gvisor.oci import mounts
from pytest_gvisor.programs import leftovers, paths, proc
from pytest_gvisor.run import host_sources
from pytest_gvisor.sessions import private


def test_the_hosts_oom_killer_ends_a_sandbox_first(gvisor: Gvisor) -> None:
    """Each process of a sandbox has the highest score there is, and no other process gets it."""
    mine = Path("/proc/self/oom_score_adj").read_text()
    with gvisor.sandbox():
        pids = leftovers.processes(gvisor._launcher.session().path, everywhere=True)
        scores = [proc.text_in(f"/proc/{pid}/oom_score_adj") for pid in pids]
    scores = [score for score in scores if score]  # not of a process that has ended
    assert (len(scores) >= 3, set(scores)) == (True, {"1000\n"})
    assert Path("/proc/self/oom_score_adj").read_text() == mine


def test_no_workload_takes_a_part_of_its_input_for_all_of_it(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the kernel has no memory for the next bytes, the run fails: a count would be wrong."""
    write = os.write

    def refused(fd: int, data: bytes) -> int:
        if len(data) == 100_000 - 65_536:  # a pipe of the usual size has taken the rest
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return write(fd, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", refused)
        with pytest.raises(
            LaunchError, match=r"input cannot be written [^.]*\nThere is no memory"
        ) as caught:
            gvisor.run(["wc", "-c"], input=bytes(100_000))
    assert caught.value.errno == errno.ENOMEM
    assert gvisor.run(["wc", "-c"], input=bytes(100_000)).stdout == "100000\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a memory limit is a cgroup")
def test_no_kill_for_memory_is_a_program_s_own_end(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no descriptor is left to count the kills, nobody knows, and the run is no result."""

    def refused(path: str, *given: Any, **more: Any) -> Any:
        if path.endswith(("memory.events", "memory.oom_control")):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return open(path, *given, **more)

    with gvisor.sandbox(memory="128M") as sandbox:
        reader = sandbox.popen(["sh", "-c", "read line; exit 1"])
        monkeypatch.setattr(proc, "open", refused, raising=False)
        with pytest.raises(LaunchError, match="memory") as caught:
            gvisor.run(["sh", "-c", "exit 1"], memory="128M")
        assert (caught.value.stage, caught.value.errno) == ("cgroup", errno.EMFILE)
        reader.stdin.close()
        with pytest.raises(SandboxCrashed, match="limit on open files"):
            reader.wait()


def test_no_closed_sandbox_stays_in_memory(gvisor: Gvisor) -> None:
    """A session of days has any number of them, each with a MiB for what its guest says."""

    def closed() -> "weakref.ref[Sandbox]":
        with gvisor.sandbox() as sandbox:
            assert sandbox.exec(["echo", "x"]).stdout == "x\n"
        return weakref.ref(sandbox)

    left = closed()
    gc.collect()
    assert left() is None


def test_the_end_of_a_harness_waits_for_a_sandbox_that_another_thread_closes(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the test's report would not have its run, and the keeper might go amid it."""
    settle, entered, done = Sandbox._settle, threading.Event(), []

    def slow(*given: Any) -> None:
        entered.set()
        time.sleep(0.3)
        settle(*given)
        done.append(True)

    sandbox = gvisor.sandbox()
    monkeypatch.setattr(Sandbox, "_settle", slow)
    closer = threading.Thread(target=sandbox.close)
    closer.start()
    entered.wait(10)
    gvisor.close()
    assert done == [True]
    closer.join()


def test_no_output_of_a_test_that_is_over_stays_in_memory(project: pytest.Pytester) -> None:
    """pytest keeps each test until its session ends, and a workload writes as much as it may."""
    project.makepyfile("""
        import gc, weakref

        held = []

        def test_writes(gvisor):
            held.append(weakref.ref(gvisor))
            assert len(gvisor.run(["head", "-c", "9999", "/dev/zero"]).stdout) == 9999

        def test_is_over():
            gc.collect()
            assert [one() for one in held] == [None]
    """)
    project.runpytest_subprocess().assert_outcomes(passed=2)


def test_few_large_inputs_are_remembered(gvisor: Gvisor) -> None:
    """The runs of a session of days have their inputs, which `gvisor.records` shows."""
    with gvisor.sandbox() as sandbox:
        for run in (gvisor.run, sandbox.exec):
            for _ in range(3):
                assert run(["wc", "-c"], input=bytes(40 * 1024**2)).stdout == f"{40 * 1024**2}\n"
            assert len(gvisor.records) == 1


def test_no_pair_of_binds_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle has as many as it likes: 2,000 took four seconds, by the square of their number."""
    asked = itertools.count()

    def counted(path: str, folder: str) -> bool:
        next(asked)
        return paths.within(path, folder)

    bound = bind("/usr", "/m")
    many = [dataclasses.replace(bound, destination=f"/m{number}") for number in range(1000)]
    spec = SimpleNamespace(root=SimpleNamespace(path="/root"), mounts=many)
    for module, look in (
        (mounts, lambda: mounts.covers("/root", many)),
        (host_sources, lambda: host_sources.check_points(spec, ["/w"])),  # type: ignore[arg-type]
    ):
        monkeypatch.setattr(module, "within", counted)
        before = next(asked)
        look()
        assert next(asked) - before < 20 * len(many)


def test_no_run_that_another_thread_begins_or_ends_changes_what_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An image's folder is looked at, and a mount point beside a run that is going on."""
    written, going_on = {"/one"}, ["/one", "/root/w"]

    def changes(path: str, folder: str) -> bool:
        if folder == "/one":
            written.add(f"/{len(written)}")
            going_on.remove("/one")
        return paths.within(path, folder)

    spec = SimpleNamespace(root=SimpleNamespace(path="/root"), mounts=[bind("/usr", "/w/usr")])
    monkeypatch.setattr(private, "written", written)
    monkeypatch.setattr(host_sources, "within", changes)
    with pytest.raises(UsageError, match="which a run that is going on may write"):
        host_sources.check_points(spec, going_on)  # type: ignore[arg-type]
    going_on.append("/one")
    monkeypatch.setattr(private, "within", changes)
    assert not private.was_written("/root")


def test_nothing_is_started_when_a_session_is_over() -> None:
    """A thread of a script may go on, with a harness whose session has no end any more."""
    before = {*proc.children_of_self()}
    with session() as gvisor:
        assert gvisor.run(["echo", "x"]).stdout == "x\n"
    for start in (lambda: gvisor.run(["true"]), gvisor.sandbox):
        with pytest.raises(UsageError, match="this session is closed"):
            start()
    assert {*proc.children_of_self()} <= before


def test_no_want_of_memory_on_the_host_ends_a_session(project: pytest.Pytester) -> None:
    """The test fails that is amid it, and the tests after that run."""
    project.makeconftest("""
        import pytest

        PLACES = {
            "test_before_it": "pytest_gvisor.plugin.markers.choose_platform",
            "test_amid_it": "pytest_gvisor.inside.wire.reports.revive_passed",
        }

        def refuse(*_, **__):
            raise MemoryError

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_protocol(item):
            with pytest.MonkeyPatch.context() as patch:
                if item.name in PLACES:
                    patch.setattr(PLACES[item.name], refuse)
                return (yield)
    """)
    project.makepyfile("""
        def test_before_it():
            pass

        def test_amid_it():
            pass

        def test_after_it():
            pass
    """)
    result = project.runpytest_subprocess("--in-gvisor")
    result.assert_outcomes(errors=2, passed=1)
    result.stdout.fnmatch_lines([
        "*the launch failed at platform: it cannot be chosen*ENOMEM*",
        "*the sandbox was lost in this test's setup: there is no memory for what came from it*",
    ])  # fmt: skip

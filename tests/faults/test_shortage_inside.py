"""Out of descriptors, memory, processes or disk where tests run inside: they fail and say why."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.little import Little

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a small disk is mounted")

FOLDER = str(Path(__file__).parent)
ROOMY = "size=50m,nr_inodes=9999"
PRESSURE = """
    import contextlib, errno, importlib, os, subprocess, sys, time
    import pytest
    from pytest_gvisor.inside.session import InsideSession
    from pytest_gvisor.inside.wire.link import Link
    from pytest_gvisor.plugin.stash import engine_of

    # Inside, this is a plugin too: there is no shortage there.
    BASE = os.path.dirname(os.environ.get("LITTLE_BASE", ""))
    if BASE:
        sys.path.insert(0, FOLDER)
        import seccomp, shortages
        from pytest_gvisor.inside.boot import copies, early
        # Each test has a sandbox that starts in the usual way, when it is short of something.
        copies._MOST_SAVES = 0
        early.Early.begin = lambda self: None
    else:
        # Memory for output is asked for when there is some: before the session's first message.
        print("here", file=sys.stderr, flush=True)
        time.sleep(0.5)

    @contextlib.contextmanager
    def disk(given):
        option, more = given.split("+")
        found = os.statvfs(BASE)
        used = {"nr_inodes": found.f_files - found.f_ffree,
                "size": (found.f_blocks - found.f_bfree) * found.f_frsize}
        change = ["mount", BASE, "-o"]
        subprocess.run([*change, f"remount,{option}={used[option] + int(more)}"], check=True)
        try:
            yield
        finally:
            subprocess.run([*change, "remount,ROOMY"], check=True)

    @contextlib.contextmanager
    def forks(given):
        # For good. What forks is a keeper that is started from here on.
        keeper = pytest.engine.launcher.keeper()._process
        keeper.kill()
        keeper.wait()
        seccomp.refuse_fork(errno.EAGAIN)
        # Whether it has failed by the time that the first command is sent.
        Link.send = slow if given == "slow" else SEND
        yield

    SEND, START = Link.send, InsideSession._begin

    def slow(link, op, **fields):
        time.sleep(0.2)
        SEND(link, op, **fields)

    @contextlib.contextmanager
    def refused(given):
        # Python asks the kernel now and then, and anywhere.
        module, _, name = given.rpartition(".")
        module = importlib.import_module("pytest_gvisor." + module)
        found = getattr(module, name)
        def refuse(*_, **__):
            raise MemoryError
        setattr(module, name, refuse)
        try:
            yield
        finally:
            setattr(module, name, found)

    KINDS = {"refused": refused,
             "descriptors": lambda given: shortages.spare_descriptors(int(given)),
             "memory": lambda given: shortages.spare_memory(float(given)),
             "disk": disk, "forks": forks, "none": lambda given: contextlib.nullcontext()}

    kept = [1]  # The session's first start opens the folder to which files come back.

    def start(*arguments):
        before = len(os.listdir("/proc/self/fd")) + sum(kept)
        kept.clear()
        with KINDS[pytest.kind](pytest.given):
            failure = START(*arguments)
        assert not failure or len(os.listdir("/proc/self/fd")) <= before
        return failure

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(item):
        if BASE:
            pytest.engine = engine_of(item.config)
            pytest.engine.launcher.keeper()
            pytest.kind, _, pytest.given = item.callspec.params["shortage"].partition(" ")
            InsideSession._begin = start
        return (yield)
"""
TESTS = """
    import pytest

    @pytest.mark.parametrize("shortage", SHORTAGES)
    def test_it(shortage):
        pass
"""


def told(little: Little, *shortages: str) -> list[str]:
    """The reports of the tests of a run, each in a sandbox of its own, with these shortages.

    Those of no shortage pass; the session goes on to its end; nothing is left.
    """
    little.write(
        pressure=PRESSURE.replace("FOLDER", repr(FOLDER)).replace("ROOMY", ROOMY),
        test_it=TESTS.replace("SHORTAGES", repr(shortages)),
    )
    process = little.start(
        "--in-gvisor", "--gvisor-isolation=test", "--gvisor-env=LITTLE_TAG=inside",
        "-p", "pressure", "--tb=short",
    )  # fmt: skip
    assert process.wait(120) == pytest.ExitCode.TESTS_FAILED, little.output()
    assert little.left() == []
    output = little.output()
    number = shortages.count("none")
    assert f"{number} passed, {len(shortages) - number} errors in" in output, output
    return re.split("_ ERROR at setup of test_it", output.partition("= ERRORS =")[2])[1:]


@pytest.mark.fault("G6")
def test_a_shortage_on_the_host_is_told_by_the_tests_inside(any_little: Little) -> None:
    """The failed test names the errno and the step, for descriptors, memory and processes."""
    refused = ("refused oci.skeleton.write", "none", "refused inside.view.host_files.now")
    shortages = ("descriptors 6", "memory -64", "none", "forks", "forks slow")
    files, state, descriptors, memory, *forks = told(any_little, *refused, "none", *shortages)
    assert "the launch failed at rootfs" in files
    assert "the launch failed at sandbox" in state
    assert files.count("ENOMEM: Cannot allocate memory") == 1
    assert state.count("ENOMEM: Cannot allocate memory") == 1
    assert re.search("the launch failed at (mounts|pipes)", descriptors)
    assert "EMFILE: Too many open files" in descriptors
    assert "the launch failed at output" in memory
    assert "ENOMEM: Cannot allocate memory" in memory
    for text in forks:
        assert "the launch failed at fork" in text
        assert "EAGAIN: Resource temporarily unavailable" in text


@pytest.mark.fault("G5")
@needs_root
def test_a_full_disk_on_the_host_is_told_by_the_tests_inside(
    any_little: Little, small_disk: Callable[[str], None]
) -> None:
    """A disk without room for a file or a page gives ENOSPC and the step."""
    small_disk(ROOMY)
    shortages = ("disk nr_inodes+9", "disk size+4096", "none")
    for text in told(any_little, *shortages):
        assert re.search("the launch failed at (workspace|rootfs|bundle)", text)
        assert "ENOSPC: No space left on device" in text

"""A pytest process in an odd state: the sandbox is the same as from any other."""

import os

import pytest

from tests.faults.little import Little

# A umask that takes its owner's permissions away stops an unprivileged user's own files as well.
UMASK = "0o777" if os.geteuid() == 0 else "0o077"
LOOK = "id -u; umask; pwd; grep -E '^Sig(Blk|Ign)' /proc/self/status; env"

TESTS = f"""
    import os, signal

    LOOK = {LOOK!r}

    def test_it(gvisor):
        before = gvisor.run(["sh", "-c", LOOK]).stdout
        os.mkdir("gone")
        os.chdir("gone")
        os.rmdir(os.getcwd())
        os.umask(UMASK)
        os.environ.update(LD_PRELOAD="/nowhere.so", GODEBUG="x=1", RUNSC_PATH="/bin/false",
                          TMPDIR="/nowhere", HOME="/nowhere", PATH="/nowhere", PYTHONPATH="/x",
                          XDG_RUNTIME_DIR="/nowhere")
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP])
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        try:
            assert gvisor.run(["sh", "-c", LOOK]).stdout == before
            assert gvisor.run(["sh", "-c", LOOK], user=1000).stdout.startswith("1000")
            assert gvisor.run(["cat"], input="x").stdout == "x"
        finally:
            os.chdir("/")
            os.umask(0o022)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
"""


@pytest.mark.fault("D4", "D5")
def test_nothing_of_the_process_is_seen_inside(any_little: Little) -> None:
    """Folder, umask, signals and environment, changed after the keeper was started."""
    any_little.write(test_it=TESTS.replace("UMASK", UMASK))
    assert "1 passed" in any_little.run()


@pytest.mark.fault("D4", "D5")
def test_a_keeper_that_starts_in_such_a_process_is_no_different(any_little: Little) -> None:
    """A new keeper works with everything that it inherits from such a process."""
    replaced = """
        keeper = gvisor._launcher.keeper()._process
        keeper.kill()
        keeper.wait()
        os.mkdir("gone")"""
    tests = TESTS.replace("UMASK", UMASK).replace('\n        os.mkdir("gone")', replaced)
    any_little.write(test_it=tests)
    assert "1 passed" in any_little.run()

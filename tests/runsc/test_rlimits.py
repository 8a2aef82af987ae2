"""Resource limits of the workload's process: they are in config.json, and gVisor enforces them."""

import os
import resource
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_gvisor import Gvisor, Platform, Runsc, WorkloadTimeout
from pytest_gvisor.programs import leftovers
from pytest_gvisor.run.request import Hooks
from pytest_gvisor.sessions.launcher import Launcher


@pytest.fixture
def limited(
    runsc: Runsc, gvisor_platform: Platform
) -> Iterator[Callable[[dict[str, int]], Gvisor]]:
    """Makes a harness whose sandboxes have these resource limits, by the hook for such changes."""
    launcher = Launcher()

    def make(limits: dict[str, int]) -> Gvisor:
        def modify(config: dict[str, Any]) -> None:
            config["process"]["rlimits"] = [
                {"type": f"RLIMIT_{name}", "soft": value, "hard": value}
                for name, value in limits.items()
            ]

        hooks = Hooks(modify_spec=modify)
        return Gvisor(runsc=runsc, platform=gvisor_platform, launcher=launcher, hooks=hooks)

    yield make
    launcher.close()


def test_resource_limits_hold(limited: Callable[[dict[str, int]], Gvisor]) -> None:
    """A limit in config.json is the workload's, and is enforced."""
    code = (
        "import errno, os, signal\n"
        "from resource import RLIMIT_FSIZE, RLIMIT_NOFILE, getrlimit\n"
        "print(getrlimit(RLIMIT_NOFILE), getrlimit(RLIMIT_FSIZE))\n"
        "try:\n"
        "    while True: last = os.open('/dev/null', os.O_RDONLY)\n"
        "except OSError as error: print(errno.errorcode[error.errno], last)\n"
        "os.close(last)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: print(open('/tmp/x', 'wb', buffering=0).write(bytes(5000)))\n"
        "except OSError as error: print(errno.errorcode[error.errno])\n"
    )
    done = limited({"NOFILE": 20, "FSIZE": 1000}).run(["python3", "-I", "-c", code])
    assert done.stdout.splitlines()[:2] == ["(20, 20) (1000, 1000)", "EMFILE 19"], done.stderr
    assert done.stdout.splitlines()[2] in {"1000", "EFBIG"}


@pytest.mark.fault("G1")
def test_a_fork_bomb_without_end_is_over_at_the_deadline(
    limited: Callable[[dict[str, int]], Gvisor],
) -> None:
    """A user's endless forks end at the deadline, and none of the processes is on the host."""
    bomb = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True)\n"
        "while True:\n"
        "    try: os.fork()\n"
        "    except OSError: pass\n"
    )
    gvisor = limited({"NPROC": 40})
    for timeout in (5, 50):  # a busy machine may take longer to start it
        with pytest.raises(WorkloadTimeout) as caught:
            gvisor.run(["python3", "-I", "-S", "-c", bomb], user=1000, timeout=timeout)
        if caught.value.stdout:
            break
    assert "up\n" in caught.value.stdout
    session = gvisor._launcher.session().path
    assert leftovers.processes(session, everywhere=True) == []
    assert gvisor.run(["echo", "x"]).stdout == "x\n"


FOLLOWING = (
    "import os, resource; s = os.statvfs('/dev/shm'); "
    "print(s.f_blocks * s.f_frsize, *resource.getrlimit(resource.RLIMIT_NOFILE))"
)


def test_shared_memory_and_open_files_follow_the_host(gvisor: Gvisor) -> None:
    """Both are the host's; the size may be set, and is exactly what was asked for then."""
    here = os.statvfs("/dev/shm")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    done = gvisor.run(["python3", "-I", "-c", FOLLOWING])
    assert done.stdout.split() == list(map(str, (here.f_blocks * here.f_frsize, *limits)))
    full = (
        "\ntry: open('/dev/shm/x', 'wb', buffering=0).write(bytes(2 << 20))"
        "\nexcept OSError as error: print(error.errno)"
        "\nelse: print(os.stat('/dev/shm/x').st_size)"
    )
    done = gvisor.run(["python3", "-I", "-c", FOLLOWING + full], shm="1M")
    assert done.stdout.split()[:3] == [str(1 << 20), *map(str, limits)]
    assert done.stdout.split()[3] in {"28", str(1 << 20)}  # ENOSPC, or a short write

"""Several sessions at once, and one whose end is interrupted."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor
from pytest_gvisor.sessions.launcher import Launcher
from tests.faults.conftest import sessions_in
from tests.faults.little import STRICT, Little, eventually, hang


@pytest.mark.fault("F12")
@pytest.mark.parametrize(
    ("way", "fixture", "call"), [("sandbox", "gvisor", "run"), ("inside", "gvisor_sandbox", "exec")]
)
def test_a_crashed_session_does_not_touch_another(
    make_little: Callable[[], Little], way: str, fixture: str, call: str
) -> None:
    """One is killed, a third begins and sweeps, and the sandbox of the other goes on to its end."""
    one, other, third = make_little(), make_little(), make_little()
    one.base = third.base = other.base
    other.write(
        test_it=f"""
        import pathlib

        def test_it({fixture}):
            def pieces():
                pathlib.Path("up").touch()
                while not pathlib.Path("finish").exists():
                    yield b""
            done = {fixture}.{call}(["sh", "-c", "cat; echo well"], input=pieces(), timeout=100)
            assert done.stdout == "well\\n"
        """
    )
    third.write(test_it="def test_it(gvisor): assert gvisor.run(['true']).returncode == 0")
    living = other.start()
    crashing = hang(one, way)
    assert eventually(lambda: other.note("up")) is not None
    crashing.kill()
    crashing.wait()
    third.run()
    (other.folder / "finish").touch()
    assert living.wait(60) == 0, other.output()
    other.assert_gone()


def interrupt(thread: int, function: str) -> None:
    """Press Ctrl-C a while after a thread has called a function of this name."""

    def names() -> Iterator[str]:
        frame = sys._current_frames().get(thread)
        while frame:
            yield frame.f_code.co_name
            frame = frame.f_back

    if eventually(lambda: function in names()) is not None:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.fault("F13")
def test_an_interrupted_end_can_be_done_again(gvisor: Gvisor, short_folder: str) -> None:
    """Ctrl-C while the keeper is waited for: a second closing leaves nothing."""
    launcher = Launcher(short_folder)
    keeper = launcher.keeper()
    other = Gvisor(runsc=gvisor.runsc, platform=gvisor.platform, launcher=launcher)
    assert other.run(["echo", "x"]).stdout == "x\n"
    os.kill(keeper.pid, signal.SIGSTOP)
    thread = threading.Thread(target=interrupt, args=[threading.get_ident(), "close"])
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        launcher.close()
    thread.join()
    os.kill(keeper.pid, signal.SIGCONT)
    launcher.close()
    launcher.close()
    assert sessions_in(short_folder) == []
    assert not Path(f"/proc/{keeper.pid}").exists()


def interrupted(number: int, work: Callable[[], object]) -> bool:
    """Do something with a Ctrl-C at the start of its n-th call of a Python function.

    Where the kernel's signal would be handled too. False if it has not so many.
    """

    def trace(*_: object) -> None:
        nonlocal number
        number -= 1
        if number < 0:
            sys.settrace(None)
            raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.fault("F13")
def test_an_end_can_be_interrupted_anywhere(short_folder: str) -> None:
    """After an interrupt in any step of the end, a second close leaves nothing."""
    descriptors = set(os.listdir("/proc/self/fd"))
    point, points = 0, 0
    while True:
        launcher = Launcher(short_folder)
        keeper = launcher.keeper()
        run = Path(launcher.session().path, "g00000000")
        run.mkdir()
        (run / "something").touch()
        if not interrupted(point, launcher.close):
            break
        launcher.close()
        launcher.close()
        assert sessions_in(short_folder) == [], point
        assert not Path(f"/proc/{keeper.pid}").exists(), point
        point += 1 if STRICT else 4
        points += 1
    assert sessions_in(short_folder) == []
    assert points >= 4
    assert set(os.listdir("/proc/self/fd")) == descriptors

"""A worker of xdist is killed: the others go on, and nothing is left."""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults.little import Little, children_of, eventually

TESTS = """
    import os, pathlib, time
    import pytest

    @pytest.mark.parametrize("number", range(6))
    def test_it(gvisor, number):
        if number == 2:
            pathlib.Path(f"pid-{number}").write_text(str(os.getpid()))
            os.rename(f"pid-{number}", "victim")
            gvisor.run(["sleep", "100"], timeout=50)
        assert gvisor.run(["sh", "-c", f"sleep 0.5; echo {number}"]).stdout == f"{number}\\n"
"""


@pytest.mark.fault("F7")
def test_a_killed_worker_fails_its_test_and_no_other(little: Little) -> None:
    """xdist says so and goes on with a new worker; the sandboxes of the dead one are gone."""
    little.write(test_it=TESTS)
    process = little.start("-n2")
    assert eventually(lambda: little.note("victim") or process.poll() is not None) is not None
    victim = int((little.folder / "victim").read_text())
    assert eventually(lambda: any(map(children_of, children_of(victim)))) is not None
    os.kill(victim, signal.SIGKILL)
    assert process.wait(120) == pytest.ExitCode.TESTS_FAILED
    assert eventually(lambda: not little.left(), 10) is not None, little.left()
    output = little.output()
    assert "1 failed, 5 passed" in output
    assert "test_it[2]" in output
    assert "crashed" in output


@pytest.mark.fault("F7")
def test_the_controller_is_killed_with_all_its_workers_at_work(little: Little) -> None:
    """Each worker's keeper does what it is for; what the workers share is gone too."""
    little.write(test_it=TESTS.replace("number == 2", "True"))
    process = little.start("-n2")
    assert eventually(lambda: len(little.keepers()) == 2 or process.poll() is not None) is not None
    assert eventually(lambda: little.note("victim")) is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert eventually(lambda: not little.left(), 10) is not None, little.left()

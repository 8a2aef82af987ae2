"""``--gvisor-debug``: runsc's own logs and an strace of the workload, for tests that fail."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

TEST = """
    def test_it(gvisor):
        done = gvisor.run(["cat", "/etc/hostname", "/no/such/file"])
        print("COMMAND", done.command)
        assert done.stdout == "gvisor\\n"
        assert done.stderr == "cat: /no/such/file: No such file or directory\\n"
        assert done.returncode == 0
"""


def test_a_failed_test_shows_boot_log_and_strace(project: Project) -> None:
    """The strace has the system calls of the workload, with their arguments and results."""
    ran = project.test(TEST).run("--gvisor-debug").ends(failed=1)
    ran.shows(": boot log -", ": strace -")
    _, _, strace = ran.output.partition(": strace -")
    lines = [line for line in strace.splitlines() if line.startswith("| ")]
    assert any("cat X openat(" in line and "/no/such/file" in line for line in lines)
    assert any("errno=2 (no such file or directory)" in line for line in lines)
    assert any("cat E exit_group(0x1)" in line for line in lines)


def test_without_it_there_are_neither(alone: Project) -> None:
    """A failure without the option shows no logs, and runsc starts without them."""
    ran = alone.test(TEST).run().ends(failed=1).hides(": boot log", ": strace", "ran: ")
    command = ran.line("COMMAND ")
    assert "--root" in command
    assert not {"--debug-log", "--strace"} & set(shlex.split(command))


def test_it_does_not_mix_logs_into_the_output(alone: Project) -> None:
    """The workload's streams stay its own with the option."""
    alone.test(TEST.replace("== 0", "== 1")).run("--gvisor-debug").ends(passed=1)


def test_a_workload_that_cannot_start_shows_its_boot_log(alone: Project) -> None:
    """A failed launch shows the boot log; it has no strace."""
    alone.test("def test_it(gvisor): gvisor.run(['no-such-program'])")
    alone.run("--gvisor-debug").ends(failed=1).shows(": boot log -", "no-such-program")

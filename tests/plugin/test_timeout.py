"""``--gvisor-timeout``: the deadline of each workload."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.plugin.conftest import Project


def test_a_workload_is_ended_at_the_deadline(alone: Project) -> None:
    """The option's deadline ends a workload; a marker's or a call's own one is another."""
    alone.test("""
        import pytest
        from pytest_gvisor import WorkloadTimeout

        def test_option(gvisor):
            with pytest.raises(WorkloadTimeout, match="still running after 0.5 s") as caught:
                gvisor.run(["sh", "-c", "echo so far; sleep 1000"])
            assert caught.value.stdout in ("so far\\n", "")

        @pytest.mark.gvisor(timeout=0.7)
        def test_marker(gvisor):
            with pytest.raises(WorkloadTimeout, match="still running after 0.7 s"):
                gvisor.run(["sleep", "1000"])

        def test_call(gvisor):
            gvisor.run(["sleep", "0.6"], timeout=100, check=True)
    """)
    alone.run("--gvisor-timeout", "0.5").ends(passed=3)

"""Orders that a runsc may wait with."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_gvisor.oci.rootfs import host_system
from pytest_gvisor.programs.order import Order
from pytest_gvisor.run.prompt import may_wait

ORDER = Order(
    id="g1", argv=("runsc", "/s/g1/root"), term=(), env={}, folder="/s/g1", root="/s/g1/root"
)  # fmt: skip


def test_a_runsc_may_wait_if_all_that_is_read_only_is_the_host_s_own() -> None:
    own = tuple(source for _target, source in host_system().binds)
    assert may_wait(ORDER._replace(readonly=own))


@pytest.mark.parametrize(
    "changes",
    [
        {"readonly": ("/home/me/project",)},
        {"writable": ("/home/me/project",)},
        {"binds": (("/home/me", "/s/g1/rootfs/home"),)},
        {"cgroups": ("/sys/fs/cgroup/pytest-gvisor-1",)},
        {"netns": "/s/g1/netns"},
        {"hide_net_sysctls": True},
        {"terminal": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_no_runsc_waits_with_parts_of_a_single_run(changes: dict[str, Any]) -> None:
    assert may_wait(ORDER)
    assert not may_wait(ORDER._replace(**changes))

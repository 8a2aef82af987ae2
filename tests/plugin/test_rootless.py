"""``--gvisor-rootless``: whether runsc is started without the rights of root."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

TEST = """
    import json

    def test_it(gvisor, oci_bundle):
        done = gvisor.run(["id", "-u"], check=True)
        assert done.stdout == "0\\n"
        config = oci_bundle(["true"]).spec.to_json()
        print("FLAG", "--rootless" in done.command, "MAPPED", "uidMappings" in config["linux"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it is about what root gets")
@pytest.mark.parametrize(
    ("when", "shown"),
    [("auto", "FLAG False MAPPED False"), ("off", "FLAG False MAPPED False"),
     ("on", "FLAG False MAPPED True")],
)  # fmt: skip
def test_root_gets_mappings_where_they_are_asked_for(alone: Project, when: str, shown: str) -> None:
    """The value ``on`` maps root's ids by the bundle, and ``auto`` does not."""
    alone.test(TEST).run("-rP", "--gvisor-rootless", when).ends(passed=1).shows(shown)


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an unprivileged user: root needs no flag")
@pytest.mark.parametrize("when", ["auto", "on"])
def test_a_user_gets_runscs_own_flag(alone: Project, when: str) -> None:
    """The values ``auto`` and ``on`` pass ``--rootless`` for another user than root."""
    ran = alone.test(TEST).run("-rP", "--gvisor-rootless", when).ends(passed=1)
    ran.shows("FLAG True MAPPED False")


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an unprivileged user: root may do this")
def test_a_user_cannot_go_without(alone: Project) -> None:
    """``off`` is an error for a user, and not a quiet ``on``."""
    ran = alone.test(TEST).run("-rP", "--gvisor-rootless", "off").ends(failed=1)
    ran.shows("UsageError")

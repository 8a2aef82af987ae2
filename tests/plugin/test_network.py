"""``--gvisor-network``: which network the sandboxes of a session have."""

import os

import pytest

from tests.plugin.conftest import Project

TEST = """
    import pytest

    def interfaces(done):
        return {line.split(":")[0].strip() for line in done.stdout.splitlines() if ":" in line}

    def test_it(gvisor):
        done = gvisor.run(["cat", "/proc/net/dev"], check=True)
        print("NETWORK", done.command.split("--network ")[1].split()[0], sorted(interfaces(done)))

    @pytest.mark.gvisor(network="none")
    def test_marker(gvisor):
        done = gvisor.run(["cat", "/proc/net/dev"], check=True)
        assert interfaces(done) == {"lo"}
        assert "--network none" in done.command
"""


def test_there_is_no_network_by_default(here: Project) -> None:
    """A sandbox without the option has a loopback of its own."""
    here.test(TEST).run("-rP").ends(passed=2).shows("NETWORK none ['lo']")


def test_host_is_the_hosts_network_and_a_marker_undoes_it(here: Project) -> None:
    """``host`` reaches runsc, the header says so, and a test may still ask for none."""
    ran = here.test(TEST).run("-rP", "--gvisor-network", "host").ends(passed=2)
    ran.shows(", systrap, network host")
    assert "'lo'" in ran.line("NETWORK host [")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace is made")
def test_sandbox_is_gvisors_own_stack(here: Project) -> None:
    """``sandbox`` in a fresh namespace: loopback alone."""
    ran = here.test(TEST).run("-rP", "--gvisor-network", "sandbox").ends(passed=2)
    ran.shows("NETWORK sandbox ['lo']")


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an unprivileged user: root may do this")
def test_sandbox_without_root_is_an_error_and_no_skip(here: Project) -> None:
    """An unprivileged caller gets an error that the mode needs root, and nothing starts."""
    ran = here.test(TEST).run("-rP", "--gvisor-network", "sandbox").ends(passed=1, failed=1)
    ran.shows("UsageError", "root").hides("NETWORK")


ROOTLESS = """
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
def test_root_gets_mappings_where_they_are_asked_for(here: Project, when: str, shown: str) -> None:
    """The value ``on`` maps root's ids by the bundle, and ``auto`` does not."""
    here.test(ROOTLESS).run("-rP", "--gvisor-rootless", when).ends(passed=1).shows(shown)


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an unprivileged user: root needs no flag")
@pytest.mark.parametrize("when", ["auto", "on"])
def test_a_user_gets_a_namespace_by_the_child(here: Project, when: str) -> None:
    """The values ``auto`` and ``on`` need neither ``--rootless`` nor mappings in the bundle."""
    ran = here.test(ROOTLESS).run("-rP", "--gvisor-rootless", when).ends(passed=1)
    ran.shows("FLAG False MAPPED False")


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an unprivileged user: root may do this")
def test_a_user_cannot_go_without(here: Project) -> None:
    """``off`` is an error for a user, and not a quiet ``on``."""
    ran = here.test(ROOTLESS).run("-rP", "--gvisor-rootless", "off").ends(failed=1)
    ran.shows("UsageError")

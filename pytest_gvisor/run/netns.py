"""Network namespaces: the check whether a sandbox may have a given one.

With ``--network sandbox`` runsc takes the addresses away from the interfaces of the namespace that
it is given. In the host's own namespace that would cut the host off, so it is refused here.
"""

from __future__ import annotations

import os

from pytest_gvisor.errors import UsageError


def check_netns(path: str) -> None:
    """Raise `UsageError` if ``path`` is no network namespace, or is the host's or our own."""
    if not os.path.isabs(path):
        raise UsageError(f"netns={path!r} is not an absolute path")
    try:
        found = os.stat(path)
        # A namespace file's inode is the namespace (namespaces(7)); nsfs has one device number.
        hosts = [os.stat("/proc/self/ns/net"), _initial()]
    except OSError as error:
        raise UsageError(
            f"netns={path!r}: {error.strerror}", next_step="Make one with: ip netns add NAME"
        ) from error
    if found.st_dev != hosts[0].st_dev:
        raise UsageError(f"netns={path!r} is not a network namespace")
    if found.st_ino in {host.st_ino for host in hosts}:
        raise UsageError(
            f"netns={path!r} is the host's own network namespace",
            next_step='Use network="host" to share the host\'s network.',
        )


def _initial() -> os.stat_result:
    """Return init's namespace, or that of kthreadd if init hides its own, even from root."""
    try:
        return os.stat("/proc/1/ns/net")
    except PermissionError:
        return os.stat("/proc/2/ns/net")

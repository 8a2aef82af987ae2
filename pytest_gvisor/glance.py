"""Whether a test has to do with gVisor, by names alone: all that an idle session pays for."""

from __future__ import annotations

import pytest

FIXTURES = frozenset({
    "gvisor", "gvisor_image", "gvisor_platform", "gvisor_runsc", "gvisor_sandbox",
    "gvisor_sandboxes", "oci_bundle", "runsc",
})  # fmt: skip
_MARKERS = ("gvisor", "requires_runsc", "requires_kvm", "requires_platform")


def uses_gvisor(item: pytest.Item) -> bool:
    """Whether a test has one of our fixtures or markers."""
    names = getattr(item, "fixturenames", ())
    return not FIXTURES.isdisjoint(names) or any(item.get_closest_marker(m) for m in _MARKERS)

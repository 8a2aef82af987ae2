"""The requirements of a test inside, checked before its turn: a platform, and no image."""

from __future__ import annotations

import pytest

from pytest_gvisor.errors import GvisorError, UsageError
from pytest_gvisor.plugin import markers
from pytest_gvisor.plugin.placement import plan_key
from pytest_gvisor.plugin.precedence import location, settings_of
from pytest_gvisor.plugin.skips import fail_misuse
from pytest_gvisor.settings import Platform

_refused_key = pytest.StashKey[bool]()


def is_refused(item: pytest.Item) -> bool:
    """Whether the host will skip or fail a test, so that it must not run ahead inside."""
    if _refused_key not in item.stash:
        try:
            require_platform(item)
            item.stash[_refused_key] = False
        except (pytest.skip.Exception, pytest.fail.Exception, GvisorError):
            item.stash[_refused_key] = True
    return item.stash[_refused_key]


def require_platform(item: pytest.Item, *, examine: bool = False) -> Platform:
    """Return the platform of a test. Skips or fails the test if a requirement is missing."""
    with fail_misuse():
        settings = settings_of(item)
        if settings.image is not None:  # its Python is the host's
            raise UsageError(
                f"{location(item)}: a test inside runs with the host's Python and system folders, "
                f"and image={settings.image!r} is asked for",
                next_step="Say @pytest.mark.gvisor(image=None) for it, or run a program of the "
                "image with the gvisor fixture.",
            )
    markers.check_requirements(item)
    platform = markers.choose_platform(item, settings, item.stash[plan_key].platform)
    if examine or platform is Platform.KVM:
        markers.check_platform(item, settings, platform)
    return platform

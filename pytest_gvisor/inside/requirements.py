"""The requirements of a test inside, checked before its turn: a platform, and no image."""

from __future__ import annotations

import pytest

from pytest_gvisor.errors import GvisorError, UsageError
from pytest_gvisor.plugin import markers
from pytest_gvisor.plugin.placement import plan_key
from pytest_gvisor.plugin.precedence import location, settings_of
from pytest_gvisor.plugin.skips import fail_misuse
from pytest_gvisor.settings import Platform, Settings

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
        _check_no_image(item, settings)
    markers.check_requirements(item)
    platform = markers.choose_platform(item, settings, item.stash[plan_key].platform)
    if examine or platform is Platform.KVM:
        markers.check_platform(item, settings, platform)
    return platform


def _check_no_image(item: pytest.Item, settings: Settings) -> None:
    """Raise `UsageError` for a test inside with an image: its Python is the host's."""
    image = settings.image
    if image is not None:
        raise UsageError(
            f"{location(item)}: a test inside runs with the host's Python and system folders, and "
            f"image={image!r} is asked for",
            next_step="Say @pytest.mark.gvisor(image=None) for it, or run a program of the image "
            "with the gvisor fixture.",
        )

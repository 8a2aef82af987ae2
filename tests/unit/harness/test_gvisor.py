"""The object of the ``gvisor`` fixture, without a run."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from pytest_gvisor import Gvisor, Platform, UsageError
from pytest_gvisor.settings import Settings


def gvisor(**settings: Any) -> Gvisor:
    """A harness that starts nothing."""
    nothing: Any = None
    chosen = Settings(**settings)
    return Gvisor(runsc=nothing, launcher=nothing, platform=Platform.SYSTRAP, settings=chosen)


def test_its_python_is_the_running_one() -> None:
    """The running Python is at its own path in `host()`."""
    assert gvisor().python == os.path.normpath(sys.executable)


def test_an_image_has_a_python_of_its_own() -> None:
    """The running one is not in it, so its path would be wrong."""
    with pytest.raises(UsageError, match=r"image='app\.tar'"):
        gvisor(image="app.tar").python  # noqa: B018 -- a property

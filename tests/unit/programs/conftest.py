import pytest

from pytest_gvisor.guest.wire import mux
from tests.fakes.fixtures import fake, runs  # noqa: F401 -- fixtures
from tests.fakes.launches import alone, base, launcher, umask  # noqa: F401 -- fixtures


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let relays hold 50 connections: in one process, each has four descriptors."""
    monkeypatch.setattr(mux, "MOST", 50)

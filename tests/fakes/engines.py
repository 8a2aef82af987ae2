"""An engine of a test's own."""

from collections.abc import Iterator

import pytest

from pytest_gvisor.harness.engine import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine that has found out nothing yet."""
    made = Engine()
    yield made
    made.close()

from tests.unit.sandbox.conftest import guest  # noqa: F401 -- a fixture

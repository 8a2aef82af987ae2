from tests.fakes.fixtures import fake, runs  # noqa: F401 -- fixtures
from tests.fakes.launches import alone, base, launcher, umask  # noqa: F401 -- fixtures

"""The builds of fixtures/make.py by their need; the tests of images use the results."""

from fixtures import make
from tests.archives import CASES


def test_every_fixture_image_has_a_run_that_is_compared() -> None:
    """Each image has a run that is compared with docker's, on each platform."""
    assert make.names() == sorted(case.name for case in CASES)

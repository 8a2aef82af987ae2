"""The check after each test: every new config.json follows the specification.

Also those of probes, of warm sandboxes, of tests inside, and of the pytests that tests start with
`ENVIRONMENT`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import bundlewatch

ENVIRONMENT = {"PYTEST_PLUGINS": "tests.bundlewatch"}
"""For a pytest that a test starts; this one's environment has the rest."""


@pytest.fixture(scope="session")
def bundles_written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that takes every config.json that this process and its pytests write."""
    path = tmp_path_factory.getbasetemp() / "bundles-written"
    os.environ[bundlewatch.VARIABLE] = str(path)
    bundlewatch.watch(str(path))
    return path


@pytest.fixture(autouse=True)
def bundles_are_as_the_schema_says(bundles_written: Path) -> Iterator[None]:
    """Fail a test that has written a config.json which the schema is against."""
    yield
    # scripts/vm.sh sets it: there the import alone takes ten seconds.
    if not bundles_written.exists() or "TESTS_WITHOUT_SCHEMA" in os.environ:
        return
    from tests.schema import problems_of_file

    written = bundles_written.read_bytes().splitlines()
    bundles_written.unlink()
    found = [problem for data in written for problem in problems_of_file(data)]
    if found:
        pytest.fail(
            "config.json is not as its schema says:\n  " + "\n  ".join(found), pytrace=False
        )

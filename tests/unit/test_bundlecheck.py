"""A test that writes an invalid config.json fails."""

import json
from typing import Any

import pytest

from pytest_gvisor.oci.defaults import default_spec
from tests.bundlecheck import ENVIRONMENT
from tests.schema import problems_of_file

QUICK = ("-pno:gvisor", "-pno:cacheprovider", "-pno:hypothesispytest", "-pno:xdist")
INNER = """
    import os, pathlib, subprocess, sys
    import pytest

    def write(text):
        path = pathlib.Path("{folder}/config.json.1")
        path.write_text(text)
        path.rename("{folder}/config.json")

    def test_itself():
        write('{{"ociVersion": "1.0.2"}}')
        write('{{"ociVersion": 1}}')

    def test_a_pytest_of_its_own():
        inner = pathlib.Path("{folder}/test_inner.py")
        inner.write_text("from test_it import write\\ndef test_it(): write('{{}}')")
        argv = [sys.executable, "-m", "pytest", "--noconftest", *{quick}, inner]
        subprocess.run(argv, env={{**os.environ, **{environment}}}, check=True)

    def test_nothing():
        pass
"""


def test_a_test_that_writes_a_wrong_file_fails(pytester: pytest.Pytester) -> None:
    """A file of the test itself or of a pytest that it starts fails that test alone."""
    pytester.makeconftest("from tests.bundlecheck import *")
    folder = pytester.mkdir("written")
    text = INNER.format(folder=folder, environment=ENVIRONMENT, quick=QUICK)
    pytester.makepyfile(test_it=text)
    result = pytester.runpytest_subprocess(*QUICK)
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(
        ["*at teardown of test_itself *", "  $.ociVersion: 1 is not of type 'string'",
         "*at teardown of test_a_pytest_of_its_own *", "  $: 'ociVersion' is a required property"]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("process", "args"), ["a", 1], "$.process.args[1]: 1 is not of type 'string'"),
        (("process", "env"), "A=b", "$.process.env: 'A=b' is not of type 'array'"),
        (("process", "cwd"), 7, "$.process.cwd: 7 is not of type 'string'"),
        (("root", "path"), None, "$.root.path: None is not of type 'string'"),
    ],
)
def test_what_is_judged_once_hides_nothing(place: tuple[str, str], value: Any, told: str) -> None:
    """A file whose texts have other types than those of a checked one is checked again."""
    config = default_spec(["a", "b"], root_path="/r", env={"A": "b"}).to_json()
    assert problems_of_file(json.dumps(config).encode()) == ()
    config[place[0]][place[1]] = value
    assert problems_of_file(json.dumps(config).encode()) == (told,)

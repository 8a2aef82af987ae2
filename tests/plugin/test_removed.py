"""Settings that are removed: each spelling gets the sentence that says what to write now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_gvisor import removed
from pytest_gvisor.setting_table import BY_NAME

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

EACH = pytest.mark.parametrize("name", removed.SETTINGS)


@EACH
def test_an_option_a_variable_and_an_ini_key_are_usage_errors(alone: Project, name: str) -> None:
    """Also with --strict-config, where pytest refuses unknown keys itself."""
    assert name not in BY_NAME
    alone.test("def test_it(): pass")
    instead = removed.SETTINGS[name]
    variable, key = f"PYTEST_GVISOR_{name.upper()}", f"gvisor_{name}"
    alone.run(f"--gvisor-{name}").exits(4).shows(f"--gvisor-{name} is removed. {instead}")
    alone.run(**{variable: "1"}).exits(4).shows(f"{variable} is removed. {instead}")
    alone.write({"pytest.ini": f"[pytest]\n{key} = 1\n"})
    for more in ([], ["--strict-config"]):
        alone.run(*more).exits(4).shows(f"{key} in ", f"is removed. {instead}")


@EACH
def test_a_marker_and_an_argument_are_errors(alone: Project, name: str) -> None:
    """A marker fails the collection of its module, and an argument fails the test."""
    call = f"def test_called(gvisor): gvisor.run(['true'], {name}=True)"
    instead = f"{name} is removed. {removed.SETTINGS[name]}"
    alone.test(call).run().ends(failed=1).shows(instead)
    marked = f"import pytest\n@pytest.mark.gvisor({name}=True)\ndef test_marked(gvisor): pass"
    alone.test(marked).run().exits(2).shows(instead)

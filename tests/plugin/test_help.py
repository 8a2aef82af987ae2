"""The listings of pytest: ``--help``, ``--markers``, ``--fixtures``, ``--collect-only``."""

import argparse
import re
from collections.abc import Iterator, Sequence

import pytest

from pytest_gvisor.base import removed
from pytest_gvisor.base.setting_table import BY_NAME, SETTINGS, names_from
from pytest_gvisor.cli.main import COMMANDS, module
from pytest_gvisor.plugin import placement
from tests.plugin.conftest import CHECKOUT, Project

PAGES = (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")))
DOCS = [path.read_text() for path in PAGES]
SETTINGS_PAGE = (CHECKOUT / "docs/settings.md").read_text()
INSIDE = {
    "--in-gvisor", "--no-gvisor", "--gvisor-isolation", "--gvisor-env", "--gvisor-readable",
    "--gvisor-user", "--gvisor-writable",
}  # fmt: skip
FIXTURES = {
    "gvisor_trace": "Function: the trace of a test inside so far",
    "gvisor": "Runs workloads under gVisor",
    "gvisor_image": "Factory: an image as a root file system",
    "gvisor_platform": "The platform that this test runs on",
    "gvisor_runsc": "The validated runsc that this test runs on",
    "gvisor_sandbox": "A warm sandbox",
    "gvisor_sandboxes": "Factory of warm sandboxes",
    "gvisor_snapshot": "Factory of saved sandboxes",
    "oci_bundle": "Factory: writes an OCI bundle",
    "runsc": "The validated runsc",
}
OF_A_MARKER = {"xfail", *names_from("marker")}
"""The arguments of the gvisor marker."""


def doc(name: str) -> str:
    """The text of a document."""
    return (CHECKOUT / "docs" / name).read_text()


def option_strings(parser: argparse.ArgumentParser) -> Iterator[Sequence[str]]:
    """The names of each option of a command, and of its subcommands, less the removed ones."""
    for action in parser._actions:
        hidden = action.help == argparse.SUPPRESS
        if action.option_strings and action.dest != "help" and not hidden:
            yield action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from option_strings(below)


def rows(text: str) -> list[str]:
    """The first cells of the tables in a document."""
    return re.findall(r"^\| (.*?) \| ", text, re.MULTILINE)


def test_help_names_each_option_its_variable_and_its_ini_key(here: Project) -> None:
    """The group names the order of sources. The tables and pages of the documents have the same.

    One page has all options with their ini keys, docs/inside.md those for tests inside.
    """
    output = here.run("--help").exits(0).output
    text = re.sub(r"\s+", " ", output)
    assert "(precedence: marker, command line, environment, ini file, default)" in text
    for one in SETTINGS:
        has_option, has_key = "command line" in one.sources, "ini" in one.sources
        assert (f"{one.option}" in text) is has_option
        assert (f"Environment: {one.variable}." in text) is has_option
        assert (f"Ini: {one.key}." in text) is (has_option and has_key)
        declared = re.search(rf" {one.key} \((string|args|float|bool)\): ", text)
        assert (declared is not None) is has_key
    assert "Ini: in_gvisor." in text
    _, _, group = output.partition("\nworkloads under gVisor")
    options = set(re.findall(r"^  (--[\w-]+)", group.partition("\n\n")[0], re.MULTILINE))
    keys = set(re.findall(r"^  ((?:gvisor_|in_gvisor)\w*) \(", output, re.MULTILINE))
    keys -= {f"gvisor_{name}" for name in removed.SETTINGS}
    assert options == {one.option for one in SETTINGS if "command line" in one.sources} | INSIDE
    table = SETTINGS_PAGE.partition("\n| option, ini key | marker | meaning |\n")[2].partition(
        "\n\n"
    )[0]
    assert set(re.findall(r"`(--[\w-]+)", table)) == options
    assert {key for row in rows(table) for key in re.findall(r"`(\w+)`", row)} == keys
    inside = {name for row in rows(doc("inside.md")) for name in re.findall(r"`(--[\w-]+)", row)}
    assert inside >= INSIDE
    named = {name for each in DOCS for name in re.findall(r"--(?:no-|in-)?gvisor[\w-]*", each)}
    assert [name for name in named if not re.search(rf"{name}\b(?!-)", output)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_at_a_shell_is_documented(command: str) -> None:
    """The docs of a command, in docs/cli.md, name each of its options."""
    found = module(command)
    _, _, rest = doc("cli.md").partition(f"\n## {command}\n")
    text = rest.partition("\n## ")[0]
    assert text
    for names in option_strings(found.parser()):
        assert any(re.search(rf"(?<![\w-]){name}(?![\w-])", text) for name in names), names


def test_markers_are_listed_with_their_arguments(here: Project) -> None:
    """``--markers`` describes all five with the gvisor marker's arguments, as the page does."""
    ran = here.run("--markers").exits(0)
    line = ran.line("@pytest.mark.gvisor(")
    assert [name for name in OF_A_MARKER if name not in line] == []
    markers = ("requires_runsc(releases)", "requires_kvm", "requires_platform(name)")
    for name in (*markers, "in_gvisor(*, fresh=False, user=None)"):
        assert ran.line(f"@pytest.mark.{name}: ")
    (arguments,) = re.findall(r"^Markers: `gvisor\((.*)\)`", SETTINGS_PAGE, re.MULTILINE)
    assert set(re.findall(r"(\w+)=", arguments)) == OF_A_MARKER
    (rest,) = re.findall(r"^`in_gvisor.*?Fixtures:", SETTINGS_PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)", rest)) == {"in_gvisor", *(m.split("(")[0] for m in markers)}


def test_fixtures_are_listed_with_their_docstrings(here: Project) -> None:
    """``--fixtures`` shows each fixture's purpose, and that runsc is for the session."""
    text = here.run("--fixtures").exits(0).output
    for name, doc in FIXTURES.items():
        assert re.search(rf"^{name}( \[session scope\])? -- .*\n    {doc}", text, re.MULTILINE)
    assert re.search(r"^runsc \[session scope\] -- ", text, re.MULTILINE)
    # A test with this one may run inside.
    assert FIXTURES.keys() == placement.FIXTURES | {"gvisor_trace"}
    (named,) = re.findall(r"Fixtures: (.*?)\.\n", SETTINGS_PAGE, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", named)) == FIXTURES.keys()


EACH = pytest.mark.parametrize("name", removed.SETTINGS)


@EACH
def test_an_option_a_variable_and_an_ini_key_are_usage_errors(here: Project, name: str) -> None:
    """Also with --strict-config, where pytest refuses unknown keys itself."""
    assert name not in BY_NAME
    here.test("def test_it(): pass")
    instead = removed.SETTINGS[name]
    variable, key = f"PYTEST_GVISOR_{name.upper()}", f"gvisor_{name}"
    here.run(f"--gvisor-{name}").exits(4).shows(f"--gvisor-{name} is removed. {instead}")
    here.run(**{variable: "1"}).exits(4).shows(f"{variable} is removed. {instead}")
    here.write({"pytest.ini": f"[pytest]\n{key} = 1\n"})
    for more in ([], ["--strict-config"]):
        here.run(*more).exits(4).shows(f"{key} in ", f"is removed. {instead}")


@EACH
def test_a_marker_and_an_argument_are_errors(here: Project, name: str) -> None:
    """A marker fails the collection of its module, and an argument fails the test."""
    call = f"def test_called(gvisor): gvisor.run(['true'], {name}=True)"
    instead = f"{name} is removed. {removed.SETTINGS[name]}"
    told = removed.OF_OTHERS.get(name, instead)  # of subprocess, if that has it too
    here.test(call).run().ends(failed=1).shows(told)
    marked = f"import pytest\n@pytest.mark.gvisor({name}=True)\ndef test_marked(gvisor): pass"
    here.test(marked).run().exits(2).shows(instead)

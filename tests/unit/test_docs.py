"""The documents have the errors, numbers and signatures of the code."""

import ast
import dataclasses
import inspect
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import pytest_gvisor
from pytest_gvisor import Completed, Gvisor, Platform, Runsc, Sandbox
from pytest_gvisor.base import completed, errors, setting_table, setting_values, settings
from pytest_gvisor.base.setting_table import SETTINGS, names_from
from pytest_gvisor.cli import install, main, vm
from pytest_gvisor.guest.tests import returns
from pytest_gvisor.guest.wire import frames
from pytest_gvisor.images import cache, docker, mount_points, streams
from pytest_gvisor.inside import ahead, session
from pytest_gvisor.inside.back import anchors, coverage_data, landing, returned
from pytest_gvisor.inside.view import visible
from pytest_gvisor.inside.wire import fields, session_bounds
from pytest_gvisor.install import fetch, release, unpack
from pytest_gvisor.oci import project, reader
from pytest_gvisor.plugin import entries, fixtures
from pytest_gvisor.plugin.placement import FIXTURES
from pytest_gvisor.report import model, outputs, run_texts, summary
from pytest_gvisor.run import connected, limits
from pytest_gvisor.run.request import MAX_RECORDS
from pytest_gvisor.runsc import platforms, sidecars
from pytest_gvisor.sandbox import forward, process
from pytest_gvisor.sessions import session_folder
from pytest_gvisor.vm import drive
from scripts import prose

CHECKOUT = Path(__file__).parents[2]
GIB = 1024**3
MIB = 1024**2


def doc(name: str) -> str:
    """The text of a document, each run of white space one blank."""
    return re.sub(r"\s+", " ", (CHECKOUT / "docs" / name).read_text())


def test_options_with_paths_are_printed_with_an_equals_sign() -> None:
    """pytest takes a path after a plugin's option for a path to test, and moves its root."""
    places = ("README.md", "docs/*.md", "pytest_gvisor/**/*.py", "scripts/*", "action.yml")
    files = [path for place in places for path in CHECKOUT.glob(place) if path.is_file()]
    assert len(files) > 200
    form = re.compile(r"--gvisor-(?:readable|runsc|writable) +[\w=]*[~/$A-Z\"{]")
    assert not [path for path in files if form.search(path.read_text(errors="replace"))]


def section(name: str, title: str) -> str:
    """The text under a title of a document, up to the next title."""
    _, _, rest = (CHECKOUT / "docs" / name).read_text().partition(f"\n## {title}\n")
    assert rest
    return rest.partition("\n## ")[0]


def first_cells(table: str) -> set[str]:
    """The names in code in the first column of a table."""
    rows = re.findall(r"^\| (`.*?) \| ", table, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)(?:\(\))?`", row)}


def tree(text: str) -> dict[str, str]:
    """The parent of each error in an indented list that begins with the root."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in text.partition("GvisorError\n")[2].splitlines():
        match = re.match(r" {6,}((?:[A-Z]\w+, )*[A-Z]\w+)(?:  |$)", line)
        if match is None:
            break
        depth = len(line) - len(line.lstrip())
        above = [(other, name) for other, name in above if other < depth]
        names = match[1].split(", ")
        found |= dict.fromkeys(names, above[-1][1] if above else "GvisorError")
        above.append((depth, names[-1]))
    return found


def parent(name: str) -> str:
    """The next public class above an error."""
    _, *above = (vars(errors) | vars(completed))[name].__mro__
    return next(str(kind.__name__) for kind in above if kind.__name__[0] != "_")


def test_the_trees_of_errors_are_those_of_the_classes() -> None:
    """The tree of errors.py has every class, that of docs/workloads.md the exported ones."""
    everything = {
        name
        for name, kind in (vars(errors) | vars(completed)).items()
        if inspect.isclass(kind) and issubclass(kind, errors.GvisorError) and name[0] != "_"
    } - {"GvisorError"}
    drawn = tree(inspect.getdoc(errors) or "")
    assert drawn == {name: parent(name) for name in everything}
    exported = everything & set(pytest_gvisor.__all__)
    shown = tree((CHECKOUT / "docs/workloads.md").read_text())
    assert shown == {name: parent(name) for name in exported}


def test_the_types_of_the_fixtures_are_public_and_in_the_reference() -> None:
    """Tests and fixtures of others can be annotated with them."""
    declared = {
        node.name: re.sub(r"^Iterator\[(.*)\]$", r"\1", ast.unparse(node.returns))
        for node in ast.parse(Path(fixtures.__file__).read_bytes()).body
        if isinstance(node, ast.FunctionDef) and node.name in FIXTURES and node.returns
    }
    assert declared.keys() == FIXTURES
    page = (CHECKOUT / "docs/api.md").read_text()
    rows = re.findall(r"(?m)^\| (`.*`) \| `(\w+)` \|$", page)
    assert {name: kind for names, kind in rows for name in re.findall(r"\w+", names)} == declared
    assert set(declared.values()) <= set(pytest_gvisor.__all__)


@pytest.mark.parametrize("method", [Sandbox.popen, Sandbox.wait_for_port])
def test_a_call_that_waits_says_how_long_and_what_it_takes_and_raises(
    method: Callable[..., object],
) -> None:
    """The default of the time-out, each argument, and the error at its end."""
    text = inspect.getdoc(method) or ""
    assert f"{setting_table.DEFAULT_TIMEOUT:g}" in text
    assert "seconds" in text
    assert {*re.findall(r"``(\w+)``", text)} >= {*inspect.signature(method).parameters} - {"self"}
    raised = {*re.findall(r"`(\w+)`", text.partition("Raises")[2])}
    assert raised >= {"NotReady", "UsageError", "SandboxCrashed"}


def test_the_table_of_arguments_is_the_signature_of_run() -> None:
    """The table has the settings of one call too."""
    own = inspect.signature(Gvisor.run).parameters.keys() - {"self", "settings"}
    assert first_cells(section("workloads.md", "Arguments")) == own | {*names_from("call")}


def test_the_table_of_options_pairs_each_with_its_ini_key_and_marker() -> None:
    """In docs/settings.md, one row a setting; further rows are of tests inside."""
    _, _, rest = (
        (CHECKOUT / "docs/settings.md")
        .read_text()
        .partition("\n| option, ini key | marker | meaning |\n|---|---|---|\n")
    )
    cells = [line.split("|")[1:3] for line in rest.partition("\n\n")[0].splitlines()]
    shown = [
        (re.findall(r"`(--[\w-]+)", one), re.findall(r"`(\w+)`", one), re.findall(r"`(\w+)=`", two))
        for one, two in cells
    ]
    declared = [
        (
            [one.option] * ("command line" in one.sources),
            [one.key] * ("ini" in one.sources),
            [one.written] * ("marker" in one.sources),
        )
        for one in SETTINGS
    ]
    inside: list[tuple[list[str], list[str], list[str]]] = [
        (["--gvisor-env"], ["gvisor_env"], []),
        (["--gvisor-readable"], ["gvisor_readable"], []),
        (["--gvisor-user"], ["gvisor_user"], []),
        (["--in-gvisor"], ["in_gvisor"], []),
        ([], ["gvisor_project_hidden"], []),
        ([], ["gvisor_returns"], []),
        ([], ["gvisor_report_fields"], []),
    ]
    assert shown == [*declared, *inside]


def test_each_option_of_the_table_has_its_variable() -> None:
    """The sentence above the table names one, and the rule for all others."""
    text = doc("settings.md")
    assert "Each option down to `--gvisor-report` has a variable" in text
    (timeout,) = (one for one in SETTINGS if one.name == "timeout")
    assert f"that of `{timeout.option}` is `{timeout.variable}`" in text
    options = [one for one in SETTINGS if "command line" in one.sources]
    assert options[-1].option == "--gvisor-report"
    assert all("environment" in one.sources for one in options)


def test_the_names_that_a_project_is_shown_without_are_listed() -> None:
    """The list in docs/workloads.md is that of the code, in its order."""
    lines = section("workloads.md", "The project").splitlines()
    (listed,) = [line for line in lines if line.startswith("`.env*`")]
    assert tuple(re.findall(r"`([^`]+)`", listed)) == project.PATTERNS


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_the_options_of_a_command_are_documented_with_their_values(command: str) -> None:
    """The table of a command has each option as help shows it: ``--netns PATH``."""
    text = section("cli.md", command)
    for one in SETTINGS:
        if command in one.sources:
            usage = f"{one.command_option} {one.command_metavar or one.metavar or ''}".rstrip()
            assert re.search(rf"[`\[]{usage}[`\]]", text)


def test_the_table_of_results_has_every_public_name() -> None:
    """The table has the fields, properties and methods of `Completed`."""
    fields = {field.name for field in dataclasses.fields(Completed)}
    names = fields | {name for name in vars(Completed) if name[0] != "_"}
    assert first_cells(section("workloads.md", "What comes back")) == names


def test_the_table_of_exit_statuses_is_that_of_the_commands() -> None:
    """docs/cli.md has each status that the help of a command lists, and no other."""
    rows = re.findall(r"^\| ([\d, ]+) \| ", section("cli.md", "Exit statuses"), re.MULTILINE)
    shown = {status for row in rows for status in row.split(", ")}
    helps = [main.module(name).parser().format_help() for name in main.COMMANDS]
    listed = {
        status
        for text in helps
        for status in re.findall(r"^  (\d+) ", text.partition("\nexit status:\n")[2], re.MULTILINE)
    }
    assert shown == listed | {"143"}  # of SIGTERM, which ends a command as any other program


def test_the_pages_beside_docs_have_its_english() -> None:
    """``make lint`` reads those of docs/ too."""
    assert [str(find) for page in CHECKOUT.glob("*.md") for find in prose.check_page(page)] == []


ATTRIBUTE = re.compile(r"^        self\.([a-z]\w*) = .*\n(?! +\"\"\")", re.MULTILINE)
"""One that is set, and that no docstring follows."""


PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
READ_TWICE = (
    "hardly", "nothing of your", "all that there is", "where it has none", "likewise", "anew",
    "all the same", "as ever", "stand below", "of the kind", "in vain", "besides", "makes no sense",
)  # fmt: skip
"""Phrases that a reader had to read twice."""


def test_no_page_has_a_phrase_that_was_read_twice() -> None:
    """Each was rewritten."""
    text = {page.name: page.read_text().lower() for page in PAGES}
    phrase = re.compile(rf"\b(?:{'|'.join(READ_TWICE)})\b")
    found = [(name, one) for name, page in text.items() for one in phrase.findall(page)]
    assert found == []


def test_the_package_of_runsc_is_recommended_on_debian_13_alone() -> None:
    """The packages of Debian 12 and Ubuntu 24.04 are too old."""
    commands = [
        (page.name, line)
        for page in PAGES
        for line in page.read_text().splitlines()
        if re.search(r"apt(-get)? install[^`]* runsc\b|install[^`]* runsc python3", line)
    ]
    assert commands
    others = [(name, line) for name, line in commands if "Debian 13" not in line]
    assert {name for name, _ in others} == {"ci.md"}  # in files for the image debian:trixie
    text = (CHECKOUT / "docs/ci.md").read_text()
    assert re.findall(r"(?:image:|FROM) (debian:\w+)", text)
    assert {*re.findall(r"\bdebian:\w+", text)} == {"debian:trixie"}


def test_each_attribute_of_an_error_is_documented() -> None:
    """By a docstring of its own, or by its name in that of the class."""
    undocumented = []
    for source in map(inspect.getsource, (errors, completed)):
        for kind in ast.walk(ast.parse(source)):
            if isinstance(kind, ast.ClassDef):
                names = ATTRIBUTE.findall(ast.get_source_segment(source, kind) or "")
                text = ast.get_docstring(kind) or ""
                undocumented += [f"{kind.name}.{n}" for n in names if f"``{n}``" not in text]
    assert undocumented == []


def test_the_attributes_of_runsc_are_named() -> None:
    """The documents name each public attribute of `Runsc`."""
    text = section("workloads.md", "What comes back")
    fields = {field.name for field in dataclasses.fields(Runsc) if field.name[0] != "_"}
    assert [name for name in fields - {"fd", "identity"} if f"`{name}`" not in text] == []
    _, _, item = text.partition("- `runsc`, the binary of this test: ")
    named = re.findall(r"`(\w+)[`(]", item.partition(".")[0])
    assert named
    assert [name for name in named if name not in fields and not hasattr(Runsc, name)] == []


def test_the_table_of_releases_is_that_of_the_features() -> None:
    """docs/compatibility.md has each feature of tests/compat/features.toml, release by release."""
    known = tomllib.loads((CHECKOUT / "tests/compat/features.toml").read_text())
    expected = [
        [f"`{name}`", *("yes" if one in feature["has"] else "no" for one in known["releases"])]
        for name, feature in known["features"].items()
    ]
    text = section("compatibility.md", "Releases of runsc")
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    assert head[2:] == known["releases"]
    assert [[row[0], *row[2:]] for row in rows] == expected


def listed(name: str) -> dict[str, int]:
    """How many entries each part of a table below tests/ has."""
    table = tomllib.loads((CHECKOUT / "tests" / name).read_text())
    return {part: len(entries) for part, entries in table.items()}


LIMITS = streams.Limits()
DEFAULTS = settings.Settings()
NUMBERS = [
    ("report.md", f"{run_texts._LONGEST:,} characters of each stream"),
    ("failures.md", f"the first {run_texts._FIRST_LINES} and the last {run_texts._LAST_LINES}"),
    ("report.md", f"{entries.MAX_OUTPUT:,} characters of pytest's output"),
    ("report.md", f"a report holds {model.MAX_DETAILS // MIB} Mi characters of such details"),
    ("report.md", f"further ones, up to {2 * model.MAX_DETAILS // MIB} Mi"),
    ("report.md", f"up to {outputs.BUDGET // 1024} KiB of the file"),
    ("report.md", f"{summary.MAX_ROWS} at most, each with the message"),
    ("images.md", f"at most {LIMITS.max_bytes // GIB} GiB and a million entries"),
    ("images.md", f"at most {LIMITS.max_depth} deep"),
    ("images.md", f"at most {LIMITS.max_ratio} times the compressed size"),
    ("images.md", f"more than {streams._MAX_DICTIONARY // MIB} MiB of memory to be unpacked"),
    ("images.md", f"beyond the first {streams.FREE_BYTES // MIB} MiB"),
    ("images.md", f"the last {mount_points.MAX_KEPT} of an image"),
    ("images.md", f"has not answered in {docker.DEADLINE:g} seconds"),
    ("images.md", f"more than {cache.DEFAULT_MAX_BYTES // GIB} GiB"),
    ("cli.md", f"A silence of {fetch.SILENCE:g} seconds"),
    ("cli.md", f"`--timeout` (default {install.parser().get_default('timeout'):g})"),
    ("cli.md", f"so does more than {release.MAX_DOWNLOAD // GIB} GiB."),
    (
        "cli.md",
        f"an archive may hold {unpack.MAX_UNPACKED // GIB} GiB, and {LIMITS.max_ratio} times",
    ),
    ("cli.md", f"boot included, default {vm.parser().get_default('timeout'):g};"),
    ("cli.md", f"more than {drive.MAX_OUTPUT // GIB} GiB of one output stream"),
    ("cli.md", f"at most 4; {vm.parser().get_default('memory')} |"),
    ("cli.md", f"| deadline, default {DEFAULTS.timeout:g} |"),
    ("cli.md", f"head and tail; default {DEFAULTS.max_output // MIB}M |"),
    ("troubleshooting.md", f"did not end within {platforms.PROBE_DEADLINE:g} seconds"),
    ("troubleshooting.md", f"{platforms.LONGEST_DEADLINE:g} seconds at most"),
    ("workloads.md", f"seconds; default {DEFAULTS.timeout:g}, from the settings"),
    ("workloads.md", f"default {DEFAULTS.max_output // MIB} MiB; at most twice that"),
    ("workloads.md", f"its last runs, {MAX_RECORDS} at most"),
    ("inside.md", f"deadline of one test, default {DEFAULTS.timeout:g}"),
    ("inside-plugins.md", f"may send {coverage_data.MOST_BYTES // GIB} GiB of such messages"),
    (
        "inside-different.md",
        (
            f"keeps {session_bounds.MOST_WARNINGS:,} warnings of a session, "
            f"and {session_bounds.MOST_TEXT // MIB} MiB"
        ),
    ),
    ("inside-plugins.md", f"at most {fields._MOST_EXTRAS:,} of them"),
    ("inside.md", f"shown one by one, {visible._MOST_ENTRIES} at most"),
    ("inside.md", f"retention applies. {returned.MOST_OF_FAILED // MIB} MiB a sandbox"),
    ("inside.md", f"a path of more than {returns._LONGEST_PATH:,} bytes"),
    ("inside.md", f"keeps {landing.MOST_FILES:,} files and {anchors.MOST_BYTES // GIB} GiB"),
    ("inside-different.md", f"names up to {ahead.MOST} tests ahead"),
    ("internals.md", f"at most {frames.MAX_JSON // 1024} KiB of JSON"),
    ("sandbox.md", f"A forward has at most {forward.MOST} connections at once"),
    ("sandbox.md", f"A snapshot has at most {connected.LARGEST // GIB} GiB"),
    ("runsc.md", f"more than {sidecars.MOST_ENTRIES} entries are refused"),
    ("runsc.md", f"whose path has more than {session_folder.LONGEST_BASE} bytes"),
    ("bundles.md", f"all of them together, {reader.MAX_PROBLEMS} at most"),
    ("promises.md", f"`tests/mutants.toml` lists {listed('mutants.toml')['modules']} modules"),
    ("promises.md", f"`tests/faults/cases.toml` lists {sum(listed('faults/cases.toml').values())}"),
    ("workloads.md", f"More than {setting_values.LONGEST:,.0f} (23 days)"),
    ("workloads.md", f"needs {limits.LEAST_TASKS[Platform.SYSTRAP]} on systrap and kvm"),
    ("workloads.md", f"kvm, and {limits.LEAST_TASKS[Platform.PTRACE]} on ptrace"),
    ("workloads.md", f"at most {project.MOST_ENTRIES:,} files and folders"),
    ("workloads.md", f"and {project.MOST_HIDDEN} to hide"),
]
WORDS = [
    ("images.md", "a million entries", LIMITS.max_entries, 1_000_000),
    ("images.md", "ten minutes", LIMITS.max_seconds, 600),
    ("images.md", "says nothing for two minutes", docker._SILENCE, 120),
    ("cli.md", "It takes three seconds at most", session_folder.SWEEP_BUDGET, 3),
    ("inside-plugins.md", "and 50 million lines or jumps", coverage_data.MOST_ENTRIES, 50_000_000),
    ("inside-different.md", "If three sandboxes in a row", session._MAX_FALSE_STARTS, 3),
    ("sandbox.md", "cannot confirm within five seconds", process.KILL_CONFIRM, 5),
]


def test_a_number_in_a_document_is_the_code_s() -> None:
    """The phrase is made of the constant."""
    assert [(name, phrase) for name, phrase in NUMBERS if phrase not in doc(name)] == []


def test_a_number_in_words_is_the_code_s() -> None:
    """The phrase has the value of the constant."""
    wrong = [row for row in WORDS if row[1] not in doc(row[0]) or row[2] != row[3]]
    assert wrong == []


def test_each_boundary_of_the_page_on_security_has_its_test() -> None:
    """Each item there names a test of this suite, and the page is short."""
    text = (CHECKOUT / "docs/security.md").read_text()
    held = re.split(r"(?m)^- ", text.partition("## What is not promised")[0])[1:]
    assert [item for item in held if not re.search(r"`test_\w+`", item)] == []
    sources = [path.read_text() for path in (CHECKOUT / "tests").rglob("test_*.py")]
    there = {name for source in sources for name in re.findall(r"(?m)^def (test_\w+)", source)}
    assert set(re.findall(r"`(test_\w+)`", text)) - there == set()
    assert len(text.split()) <= 900


def test_the_page_on_how_it_works_is_short() -> None:
    """One page, at most 1,500 long; the rest is beside the code."""
    assert len((CHECKOUT / "docs/internals.md").read_text().split()) <= 1500

"""Untrusted output: nothing that a workload prints reaches a terminal or a report as it is."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from tests.plugin.conftest import Project

# What the workload writes, line by line.
HOSTILE = (
    b"\x1b[2J\x1b[1;31mclear",
    b"\x1b]52;c;ZXZpbA==\x07clipboard",
    b"\x1b]8;;http://example.invalid\x1b\\link",
    b"\xe2\x80\xaebidi\xe2\x81\xa6",
    b"::error file=x::forged",
    b"  ::set-output name=x::forged",
    b"##[error]forged",
    b"##vso[task.setvariable variable=x]forged",
    b"= 1 passed in 0.01s =",
    b"=================== 99 passed, 1 skipped in 0.01s (0:00:01) ===================",
    b"2 passed in 0.01s",
    b"no tests ran in 0.01s",
    b"\x00\x01\x08\x0b\x0c\x0d\x7f nul and others",
    b"\xef\xbf\xbe\xef\xbf\xbf not for XML",
    b"\xed\xa0\x80 lone surrogate",
    b"\x9b31m raw C1 and \xc2\x9b31m encoded C1",
    b"\xe2\x80\xa8line separator\xe2\x80\xa9",
    b"]]>&<cdata",
)
DATA = b"\n".join(HOSTILE) + b"\n"

PRINTS = f"""
    import logging
    import pytest

    DATA = {DATA!r}
    PROGRAM = ["python3", "-c", "import sys; [s.buffer.write(" + repr(DATA) + ") for s in "
               "(sys.stdout, sys.stderr)]; sys.exit(int(sys.argv[1]))"]

    @pytest.fixture
    def done(gvisor):
        done = gvisor.run([*PROGRAM, "3"])
        assert done.stdout_bytes == done.stderr_bytes == DATA
        return done
"""

TESTS = (
    PRINTS
    + """
    def test_assertion(done):
        assert done.stdout == "x"

    def test_lines(done):
        assert done.stdout.splitlines() == ["x"]

    def test_message(done):
        pytest.fail(done.stdout, pytrace=False)

    def test_raised(done):
        raise RuntimeError(done.stdout)

    def test_chained(done):
        try:
            raise ValueError(done.stdout)
        except ValueError as error:
            raise RuntimeError(done.stderr) from error

    def test_surrogates(done):
        text = done.stdout_bytes.decode("utf-8", "surrogateescape")
        assert "\\udced" in text
        print(text.encode("utf-8", "replace").decode())
        raise RuntimeError(text)

    def test_printed(done):
        print(done.stdout)
        assert 0

    def test_section(gvisor):
        gvisor.run([*PROGRAM, "1"], check=True)

    def test_arguments(gvisor):
        text = DATA.replace(b"\\0", b"").decode("utf-8", "replace")
        gvisor.run(["sh", "-c", "echo x >&2; exit 1", text], env={"X": text}, check=True)

    def test_logged(done):
        logging.getLogger().warning("%s", done.stdout)
        assert 0

    def test_property(done, record_property):
        record_property(done.stdout[:20], done.stdout)

    def test_passed(done):
        print(done.stdout)

    def test_skipped(done):
        pytest.skip(done.stdout)

    def test_xfailed(done):
        pytest.xfail(done.stdout)

    @pytest.fixture
    def late(done):
        yield
        raise RuntimeError(done.stdout)

    def test_teardown(late):
        pass
"""
)
FAILED = 10
SHARED = TESTS.replace("def done(gvisor):", "def done(gvisor_sandboxes):").replace(
    "done = gvisor.run(", "done = gvisor_sandboxes().exec("
)
"""The same in one sandbox, which starts once."""

FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
COMMAND = re.compile(r"(?m)^[ \t]*(::|##\[|##vso\[)")
SUMMARY = re.compile(r"(?m)^[= ]*(\d+ (passed|failed)|no tests ran)\b.* in \d")


def hidden_in(text: str) -> list[str]:
    """Everything in a text that should not be in anything which is shown."""
    return [*FORBIDDEN.findall(text), *COMMAND.findall(text)]


def texts(element: ET.Element) -> Iterator[str]:
    """All attributes and texts of an XML tree."""
    for part in element.iter():
        yield from part.attrib.values()
        yield part.text or ""
        yield part.tail or ""


@pytest.mark.fault("E8")
@pytest.mark.parametrize("style", ["short", "native", "line"])
def test_no_style_of_traceback_lets_anything_through(here: Project, style: str) -> None:
    """Each style of traceback shows the workload's output escaped."""
    ran = here.test(SHARED).run(f"--tb={style}", "-rA", "--color=no").exits(1)
    assert hidden_in(ran.output) == []
    assert len(SUMMARY.findall(ran.output)) == 1


@pytest.mark.fault("E8")
def test_terminal_and_junit_show_it_escaped(project: Project) -> None:
    """Every way of showing output: escaped on the terminal, and XML that can be parsed."""
    args = ("-rA", "-l", "--color=no", "--junitxml=report.xml", "-o", "junit_logging=all",
            "-o", "junit_family=xunit1")  # fmt: skip
    ran = project.test(TESTS).run(*args)
    ran.ends(passed=3, failed=FAILED, skipped=1, xfailed=1, errors=1)
    assert hidden_in(ran.output) == []
    assert len(SUMMARY.findall(ran.output)) == 1
    ran.shows(r"\x1b[2J", r"\x1b]52;c;ZXZpbA==\x07", r"\u202e", r"\x3a:error", r"\x23#[error]")
    ran.shows(r"\x31 passed in 0.01s", r"\xed\xa0\x80", r"\x9b31m")
    shown = "\n".join(texts(ran.junit()))
    assert hidden_in(shown) == []
    assert r"\x1b]52;c;ZXZpbA==\x07" in shown
    assert r"\u202e" in shown
    properties = [part.attrib for part in ran.junit().iter("property")]
    (value,) = (part["value"] for part in properties if not part["name"].startswith("gvisor."))
    assert r"\x1b]52;c;ZXZpbA==\x07" in value


@pytest.mark.fault("E7", "E8")
def test_a_worker_survives_lone_surrogates(here: Project) -> None:
    """A report with text that cannot be encoded reaches xdist's controller, from every place."""
    here.test(
        PRINTS
        + """
    def test_it(done, record_property):
        text = done.stdout_bytes.decode("utf-8", "surrogateescape")
        record_property("text", text)
        record_property(text, "text")
        logging.getLogger().warning("%s", text)
        assert text == "\\udcff"

    def test_skip(done):
        pytest.skip(done.stdout_bytes.decode("utf-8", "surrogateescape"))

    def test_after(gvisor):
        gvisor.run(["true"], check=True)
    """
    )
    here.run("-n1").ends(passed=1, failed=1, skipped=1).hides("node down", "crashed", "DumpError")


def test_colours_are_pytests_own(here: Project) -> None:
    """With `--color=yes` an assertion's diff has its colours, and no other escape passes."""
    ran = here.test(SHARED).run("--color=yes", "-rA", "-l").exits(1)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", ran.output)
    assert hidden_in(plain) == []
    assert len(SUMMARY.findall(plain)) == 1
    colours = set(re.findall(r"\x1b\[([0-9;]*)m", ran.output))
    assert not colours & {"2", "5", "7", "8", "30", "90;40", "0;30"}, "what could hide text"
    alone_in_colour = [line for line in ran.output.splitlines() if "\x1b[91m- x" in line]
    assert alone_in_colour, "the diff has lost its colours"


@pytest.mark.fault("E8")
def test_the_bytes_and_the_text_stay_available(here: Project) -> None:
    """Only the shown output is escaped: the test itself gets the workload's bytes."""
    here.test(
        PRINTS
        + """
    def test_it(done, capsys):
        assert "\\x1b]52;c;ZXZpbA==\\x07clipboard\\n" in done.stdout
        assert "\\\\xed\\\\xa0\\\\x80 lone surrogate\\n" in done.stdout
        print(done.stdout, end="")
        assert capsys.readouterr().out == done.stdout
    """
    )
    here.run().ends(passed=1)


def test_tests_without_a_sandbox_are_reported_as_ever(here: Project) -> None:
    """The output of a test without a sandbox stays unescaped."""
    here.test("""
        def test_it():
            print("\\x1b[35mcolour\\x1b[0m \\u202e = 7 passed in 1s =")
            assert 0
    """)
    here.run("--color=no").ends(failed=1).shows("\x1b[35mcolour\x1b[0m \u202e")


WAYS = {
    "argument": "def test_it(gvisor_sandboxes):\n        box = gvisor_sandboxes()",
    "own fixture": """@pytest.fixture(scope="module")
    def warm(gvisor_sandboxes):
        return gvisor_sandboxes()

    def test_it(warm):
        box = warm""",
    "asked for": """def test_it(request):
        box = request.getfixturevalue("gvisor_sandboxes")()""",
}


@pytest.mark.fault("E8")
@pytest.mark.parametrize("way", WAYS)
def test_what_a_shared_sandbox_wrote_is_escaped(here: Project, way: str) -> None:
    """A test that has only a sandbox of the session's is reported as one with its own is."""
    body = f"""
    {WAYS[way]}
        done = box.exec([*PROGRAM, "3"])
        assert done.stdout_bytes == DATA
        print(done.stdout)
        pytest.fail(done.stderr)
    """
    ran = here.test(PRINTS + body).run("--color=no").exits(1)
    assert hidden_in(ran.output) == []
    assert len(SUMMARY.findall(ran.output)) == 1
    ran.shows(r"\x1b]52;c;ZXZpbA==\x07")


@pytest.mark.fault("E8")
def test_what_a_subtest_shows_is_escaped(project: Project) -> None:
    """A subtest's output, logs, message and arguments, which pytest adds last, are escaped."""
    body = """
    def test_it(done, subtests):
        with subtests.test(done.stdout, text=done.stdout, **{done.stdout: 1}):
            print(done.stdout)
            logging.getLogger().warning("%s", done.stdout)
            assert 0

    def test_passed(done, subtests):
        with subtests.test(done.stdout):
            print(done.stdout)
    """
    ran = project.test(PRINTS + body).run("-rA", "-vv", "--color=no", "--junitxml=report.xml")
    ran.exits(1).shows("SUBFAILED", "Captured stdout call", "Captured log call")
    assert hidden_in(ran.output) == []
    assert len(SUMMARY.findall(ran.output)) == 1
    assert hidden_in("\n".join(texts(ran.junit()))) == []

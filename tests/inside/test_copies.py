"""Sandboxes of tests inside that begin as copies of one that was saved before any conftest.py."""

import _ctypes
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.inside.conftest import inside

INSIDE = "import os, time\nfrom pytest_gvisor import is_gvisor_kernel\n"
INSIDE += "inside = is_gvisor_kernel(os.uname().release)\n"
COPIES = "gvisor: {} of tests inside began as copies of a saved one"
WHILE = """
def copies(config):
    found = config.pluginmanager.get_plugins()
    return next((one for one in found if type(one).__name__ == "Copies"), None)
"""
NONE = "gvisor: sandboxes of tests inside did not begin as copies: *{}*"


def test_a_copy_is_a_sandbox_of_its_own(project: pytest.Pytester) -> None:
    """Each copy has a root of its own, and the time.

    All start from one folder of the host, which none can write to.
    """
    project.makepyfile(
        INSIDE
        + """
import contextlib
import pytest

@pytest.mark.parametrize("number", range(3))
def test_it(number, tmp_path):
    assert inside
    with open("/etc/hosts") as hosts:
        assert "changed" not in hosts.read()
    for folder in ("", "/etc", "/home", "/run", "/tmp", "/var/tmp", os.getcwd()):
        assert not os.path.exists(f"{folder}/made")
        with contextlib.suppress(PermissionError):  # of a user who is not root
            open(f"{folder}/made", "w").close()
            os.chmod(folder or "/", 0o700)
    with contextlib.suppress(PermissionError), open("/etc/hosts", "a") as hosts:
        hosts.write("changed")
    print("time:", time.time())
"""
    )
    before = time.time()
    result = inside(project, "-v", "-rP", "--gvisor-isolation=test")
    assert result.parseoutcomes() == {"passed": 3}
    result.stdout.fnmatch_lines(
        [COPIES.format("2 sandboxes"), "*3 passed, sandboxes start in * ms*"]
    )
    lines = [line.split()[1] for line in result.outlines if line.startswith("time: ")]
    times = [before, *map(float, lines), time.time()]
    assert len(times) == 5
    assert times == sorted(times)


DRAWING = """
import concurrent.futures, os, random, secrets, ssl, tempfile, uuid

own, seeded = random.Random(), random.Random(7)
pool = concurrent.futures.ThreadPoolExecutor(1)
device = open("/dev/urandom", "rb", buffering=0)
DRAWS = {
    "ssl": lambda: ssl.RAND_bytes(8),
    "ssl of a thread": lambda: pool.submit(ssl.RAND_bytes, 8).result(),
    "random": random.random,
    "a generator": own.random,
    "seeded": seeded.random,
    "tempfile": tempfile.mktemp,
    "uuid": uuid.uuid4,
    "uuid of the time": uuid.uuid1,
    "secrets": lambda: secrets.token_hex(8),
    "kernel": lambda: os.urandom(8),
    "device": lambda: device.read(8),
}
before = [draw() for draw in DRAWS.values()]
"""
DRAWS = """
import drawing_plugin, pytest

@pytest.mark.parametrize("number", range({}))
def test_it(number):
    for name, draw in drawing_plugin.DRAWS.items():
        print("drawn:", name, "=", draw())
"""


def test_copies_repeat_no_random_numbers_though_a_plugin_has_drawn_before(
    project: pytest.Pytester,
) -> None:
    """All of 8 copies have other numbers of each kind; a generator with a seed goes on as it was.

    tests/suites/ecosystem_randomness.py compares 64, with packages from PyPI.
    """
    project.makepyfile(drawing_plugin=DRAWING, test_it=DRAWS.format(9))
    result = inside(project, "-v", "-rP", "--gvisor-isolation=test", "-p", "drawing_plugin")
    assert result.parseoutcomes() == {"passed": 9}
    result.stdout.fnmatch_lines([COPIES.format("8 sandboxes")])
    found = different(result.outlines)
    assert found == {**dict.fromkeys(found, 9), "seeded": 1}
    assert len(found) == 11


def different(lines: list[str]) -> dict[str, int]:
    """The kinds of numbers in the output of these tests, and how many there are of each."""
    drawn = {line.removeprefix("drawn: ") for line in lines if line.startswith("drawn: ")}
    return Counter(line.partition(" = ")[0] for line in drawn)


STARTS = {
    "library.so": "import ctypes; ctypes.CDLL('./library.so')",
    "process *": "import subprocess; subprocess.Popen(['sleep', '99'])",
}


@pytest.mark.parametrize("named", STARTS)
def test_there_are_no_copies_where_nobody_can_renew_a_generator(
    named: str, project: pytest.Pytester
) -> None:
    """A library that has OpenSSL within itself, or a process of a plugin's; `-v` names it."""
    text = b"/dev/urandom\0OpenSSL NIST SP 800-90A DRBG\0"
    (project.path / "library.so").write_bytes(Path(_ctypes.__file__).read_bytes() + text)
    project.makepyfile(
        starting_plugin=INSIDE + f"if inside: {STARTS[named]}\n",
        test_it="def test_a(): pass\ndef test_b(): pass\n",
    )
    result = inside(project, "-v", "--gvisor-isolation=test", "-p", "starting_plugin")
    assert result.parseoutcomes() == {"passed": 2}
    result.stdout.fnmatch_lines([NONE.format(f"would repeat the random numbers of *{named}")])
    result.stdout.no_fnmatch_line(COPIES.format("*"))


EARLY = (
    INSIDE
    + """
if inside:
    import helper
    seen = os.listdir("."), os.path.exists("late.txt"), open("data.txt").read()
    held = open("held.txt") if os.path.exists("held.txt") else None
"""
)


@pytest.mark.parametrize(("held", "count"), [(False, "2 sandboxes"), (True, "1 sandbox")])
def test_a_copy_sees_the_files_that_the_host_has_now(
    project: pytest.Pytester, count: str, *, held: bool
) -> None:
    """Neither contents nor names of before count, though a plugin has read them before the gate.

    gVisor keeps the names in a folder in which a file is open. Where they have changed, there is no
    copy.
    """
    for name in ("data.txt", "gone.txt"):
        (project.path / name).write_text("old")
    if held:
        (project.path / "held.txt").write_text("held")
    project.makepyfile(
        early_plugin=EARLY,
        helper="value = 'old'",
        test_it="""
import os
import pytest

def check(data, value):
    import helper, early_plugin
    assert early_plugin.seen[1:] == (False, "old") or data == "new"
    assert early_plugin.held is None or early_plugin.held.read() == "held"
    assert open("data.txt").read() == data
    assert helper.value == value

@pytest.mark.in_gvisor(fresh=True)
def test_first():
    assert not os.path.exists("late.txt")
    check("old", "old")

def test_host():
    open("data.txt", "w").write("new")
    open("late.txt", "w").write("late")
    os.unlink("gone.txt")

@pytest.mark.in_gvisor(fresh=True)
def test_copy():
    assert open("late.txt").read() == "late"
    assert "late.txt" in os.listdir(".") and "gone.txt" not in os.listdir(".")
    assert not os.path.exists("gone.txt")
    check("new", "old")

def test_host_again():
    open("helper.py", "w").write("value = 'newer'")

@pytest.mark.in_gvisor(fresh=True)
def test_fresh():
    check("new", "newer")

@pytest.mark.in_gvisor(fresh=True)
def test_copy_of_that():
    check("new", "newer")
""",
    )
    result = project.runpytest_subprocess(
        "-v", "--gvisor-strict", "-p", "no:cacheprovider", "-p", "early_plugin"
    )
    assert result.parseoutcomes() == {"passed": 6}
    result.stdout.fnmatch_lines([COPIES.format(count)])
    result.stdout.fnmatch_lines([NONE.format("files of the project had changed")])


def test_each_module_collects_its_own_files_alone(project: pytest.Pytester) -> None:
    """A file that the command line names, and its conftest.py, are in no other one's sandbox."""
    for name in "abc":
        other = {"a": "b", "b": "c", "c": "a"}[name]
        folder = project.mkdir(name)
        (folder / "conftest.py").write_text(f"import sys\nsys.loaded_{name} = True\n")
        (folder / f"test_{name}.py").write_text(
            "import sys\ndef test_it():\n"
            f"    assert sys.loaded_{name} and not hasattr(sys, 'loaded_{other}')\n"
            f"    assert 'test_{other}' not in sys.modules\n"
        )
    files = [f"{name}/test_{name}.py" for name in "abc"]
    result = inside(project, "-v", "--gvisor-isolation=module", *files)
    assert result.parseoutcomes() == {"passed": 3}
    result.stdout.fnmatch_lines([COPIES.format("2 sandboxes")])


def test_nothing_is_saved_on_a_network(project: pytest.Pytester) -> None:
    """Its sockets could not go on; `-v` says so."""
    project.makepyfile("def test_a(): pass\ndef test_b(): pass\n")
    result = inside(project, "-v", "--gvisor-isolation=test", "--gvisor-network=host")
    assert result.parseoutcomes() == {"passed": 2}
    result.stdout.fnmatch_lines([NONE.format("network=host")])


ENDS = {
    "a failure": ("", ("-x",)),
    "Ctrl-C": ("raise KeyboardInterrupt", ()),
    "SIGKILL": ("os.kill(os.getpid(), 9)", ()),
}


@pytest.mark.parametrize("how", ENDS)
def test_nothing_is_left_of_a_copy_that_no_test_has_taken(
    how: str, project: pytest.Pytester
) -> None:
    """The copy is gone two seconds after any end, and no line counts it."""
    statement, arguments = ENDS[how]
    project.makepyfile("def test_a(): assert False\ndef test_b(): pass\n")
    project.makeconftest(
        INSIDE
        + WHILE
        + f"""
def pytest_sessionstart(session):
    global config
    config = session.config

def pytest_runtest_logreport(report):
    if not inside and report.when == "call":
        folder = copies(config)._next.link._driven.workspace.folder
        assert os.path.isdir(folder)
        with open("folder.txt", "w") as file:
            file.write(folder)
        {statement}

def pytest_terminal_summary(terminalreporter):
    if not inside:
        with open("folder.txt") as file:
            terminalreporter.write_line(f"there: {{os.path.exists(file.read())}}")
"""
    )
    result = inside(project, "-v", "--gvisor-isolation=test", *arguments)
    if how != "SIGKILL":  # the end of the tests removes it, and not only that of pytest
        result.stdout.fnmatch_lines(["there: False"])
    session = Path((project.path / "folder.txt").read_text()).parent
    until = time.monotonic() + 60
    while (left := _left(session)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left
    result.stdout.no_fnmatch_line(COPIES.format("*"))
    if how == "a failure":
        result.stdout.fnmatch_lines(["*1 failed, 1 not run, its sandbox started in * ms*"])


def _left(session: Path) -> list[Path]:
    """The session's folder, and what names it on its command line."""
    commands = Path("/proc").glob("[0-9]*/cmdline")
    return [*filter(Path.exists, [session]), *(path for path in commands if _names(path, session))]


def _names(command: Path, session: Path) -> bool:
    try:
        return bytes(session) in command.read_bytes()
    except OSError:
        return False

"""A submission that is graded, and wants to pass: its code runs in a sandbox, the test outside."""

import contextlib
import errno
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import (
    Gvisor,
    InsideError,
    Loaded,
    NoAnswer,
    PytestGvisorWarning,
    RemoteError,
    Sandbox,
)
from tests.sandbox.test_allow import relays

GRADE = """
    import pathlib, pytest

    FOLDERS = sorted(pathlib.Path("submissions").iterdir())

    @pytest.mark.parametrize("folder", FOLDERS, ids=str)
    def test_grade(gvisor_sandbox, folder):
        solution = gvisor_sandbox.load(folder / "solution.py", timeout=20)
        assert solution.add(2, 2) == 4
        with pytest.raises(Exception):
            solution.add(None, 2)
"""

RIGHT = """
    def add(a, b):
        return a + b
"""

WRONG = {
    "a conftest.py that makes each report pass": {  # SWE-bench, issue 631
        "conftest.py": """
            import pytest
            @pytest.hookimpl(hookwrapper=True)
            def pytest_runtest_makereport(item, call):
                outcome = yield
                report = outcome.get_result()
                report.outcome, report.longrepr = "passed", None
        """,
        "solution.py": "def add(a, b): return 5\n",
    },
    "an exit with status 0": {  # SWE-bench, issue 601
        "solution.py": "import sys; sys.exit(0)\n",
    },
    "an exit with status 0 in a call": {"solution.py": "import os\ndef add(a, b): os._exit(0)\n"},
    "a crash where an exception is expected": {
        "solution.py": "import os\ndef add(a, b): return 4 if a else os.abort()\n",
    },
    "an exit where an exception is expected": {
        "solution.py": "import sys\ndef add(a, b): return 4 if a else sys.exit(1)\n",
    },
    "forged output": {  # SWE-bench, issue 538
        "solution.py": """
            import os
            for fd in (1, 2):
                os.write(fd, b"test_grade.py::test_grade PASSED\\n=== 1 passed in 0.01s ===\\n")
            def add(a, b):
                print("test_grade.py .   [100%]\\\\n\\\\n=== 1 passed in 0.01s ===")
                return 5
        """,
    },
    "a replaced pytest": {
        "pytest.py": "raises = fail = None\ndef main(*_): return 0\n",
        "sitecustomize.py": "import os; os._exit(0)\n",
        "solution.py": """
            import builtins, sys, types
            fake = sys.modules["pytest"] = sys.modules["_pytest"] = types.ModuleType("pytest")
            fake.main = lambda *_: 0
            builtins.AssertionError = type("Never", (Exception,), {})
            def add(a, b): return 5
        """,
    },
    "an object that is equal to all others": {
        "solution.py": """
            class Any:
                __eq__ = __ne__ = __bool__ = lambda *_: True
            def add(a, b): return Any()
        """,
    },
    "an int that is equal to all others": {
        "solution.py": """
            class Four(int):
                __eq__ = __radd__ = __int__ = __index__ = __pos__ = lambda *_: 4
                __hash__ = int.__hash__
            def add(a, b): return Four(5)
        """,
    },
}


@pytest.mark.parametrize(
    ("flags", "wrong"),
    [((), tuple(WRONG)), (("-O",), ("forged output",))],
    ids=["plain", "optimised"],
)
def test_no_wrong_submission_passes(
    pytester: pytest.Pytester, flags: tuple[str, ...], wrong: tuple[str, ...]
) -> None:
    """Whatever it does to pytest, to its process or to its output; and the right one does.

    With ``-O`` Python leaves out assert statements, but pytest has rewritten those of the tests.
    """
    submissions = {"right": {"solution.py": RIGHT}, **{name: WRONG[name] for name in wrong}}
    for name, files in submissions.items():
        folder = pytester.path / "submissions" / name
        folder.mkdir(parents=True)
        for file, text in files.items():
            (folder / file).write_text(textwrap.dedent(text))
    pytester.makepyfile(test_grade=textwrap.dedent(GRADE))
    pytester.makeini("[pytest]\n")
    command = (sys.executable, *flags, "-m", "pytest", "-v", "-pno:cacheprovider", "test_grade.py")
    result = pytester.run(*command)
    result.assert_outcomes(passed=1, failed=len(wrong))
    result.stdout.fnmatch_lines(["test_grade.py::test_grade?submissions/right? PASSED *"])
    assert result.ret == 1


Load = Callable[..., Loaded]


@pytest.fixture
def load(gvisor_sandbox: Sandbox, tmp_path: Path) -> Load:
    """Load a submission."""

    def load(source: str, timeout: float | None = None) -> Loaded:
        file = tmp_path / f"solution{threading.get_ident()}.py"
        file.write_text(textwrap.dedent(source))
        return gvisor_sandbox.load(file, timeout=timeout)

    return load


def loaded_soon(load: Load, source: str, seconds: float) -> Loaded:
    """A submission whose calls have this deadline, or a longer one on a machine that is busy."""
    with contextlib.suppress(NoAnswer):
        return load(source, timeout=seconds)
    return load(source, timeout=20 * seconds)


@contextlib.contextmanager
def no_answer(name: str) -> Iterator[None]:
    """The block is left by `NoAnswer`, and by no exception."""
    try:
        with contextlib.suppress(Exception):
            yield
    except NoAnswer:
        return
    pytest.fail(f"{name} had an answer")


NO_EXCEPTION = {
    "sys.exit": "import sys\ndef act(): sys.exit(0)\n",
    "os._exit": "import os\ndef act(): os._exit(0)\n",
    "a signal": "import os\ndef act(): os.kill(os.getpid(), 9)\n",
    "KeyboardInterrupt": "def act(): raise KeyboardInterrupt\n",
    "a BaseException": "class Failed(BaseException): pass\ndef act(): raise Failed\n",
    "a closed stream": "import os\ndef act(): os.closerange(3, 100)\n",
    "deep nesting": """
        def act():
            value = []
            for _ in range(100_000): value = [value]
            return value
    """,
    "a list that holds itself": "value = []\nvalue.append(value)\ndef act(): return value\n",
    "a text that is too long": "def act(): return 'x' * 80_000_000\n",
    "a list that is too long": "def act(): return [None] * 3_000_001\n",
    "too many objects": "def act(): return [object() for _ in range(10_001)]\n",
}


def test_no_end_of_a_process_and_no_bound_is_an_exception(load: Load) -> None:
    """A test that expects an exception sees `NoAnswer`, which is none; and the next load works."""
    for name, source in NO_EXCEPTION.items():
        with load(source) as solution, no_answer(name):
            solution.act()
    assert load("def add(a, b): return a + b\n").add(2, 2) == 4


def test_no_name_of_an_argument_is_one_of_the_package_s(load: Load) -> None:
    """Its TypeError would be that of the submission: a right one fails, a wrong one has raised."""
    names = dict.fromkeys(["self", "target", "args", "kwargs", "act", "named", "seconds"], 1)
    solution = load("""
        def act(**given): return given

        class Kept:
            def __init__(self, items, target): self.items, self.target = items, target
    """)
    assert solution.act(**names) == names
    assert solution.Kept([1], target=2).target == 2


ERROR = """
    class Error(Exception):
        def __str__(self):
            while True: pass
    def act():
        raise Error
"""

Act = Callable[[Loaded], object]
ENDLESS: dict[str, tuple[str, Act]] = {
    "a loop": ("def act():\n    while True: pass\n", lambda module: module.act()),
    "a generator": ("def act():\n    while True: yield 1\n", lambda module: list(module.act())),
    "__getattr__": ("def __getattr__(name):\n    while True: pass\n", lambda module: module.act),
    "the text of an error": (ERROR, lambda module: module.act()),
}


def test_a_call_ends_at_its_deadline(load: Load) -> None:
    """So does an iteration, which has one deadline for all of its items."""

    def check(name: str) -> None:
        source, act = ENDLESS[name]
        with loaded_soon(load, source, 5) as solution, no_answer(name):
            act(solution)

    with ThreadPoolExecutor(len(ENDLESS)) as pool:
        list(pool.map(check, ENDLESS))


FORGED = """
    import json, os, threading

    def frame(value):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return len(data).to_bytes(4, "big") + data

    def everywhere(data):
        for fd in range(256):
            try:
                os.write(fd, data)
            except OSError:
                pass

    def act():
        everywhere(DATA)
        return 5
"""

FRAMES = {
    "the answer to another call": 'frame(["t", "0" * 16, "value", ["i", "4"]])',
    "a value without a call": 'frame(["i", "4"])',
    "a handle as a reply": 'frame(["h", 1, "tuple"])',
    "an error without a call": 'frame(["t", "", "error", ["t", "ValueError", "no", ""]])',
    "no JSON": 'b"\\0\\0\\0\\4nope"',
    "JSON of another shape": 'frame({"a": 1})',
    "JSON that is nested deep": 'frame(b"[" * 100_000)',
    "a number of 100,000 digits": 'frame(b"1" * 100_000)',
    "a size of 4 GiB": 'b"\\xff\\xff\\xff\\xff"',
    "a handle with odd fields": 'frame(["h", "1", 2])',
    "a pickle": 'frame(b"\\x80\\x04cos\\nsystem\\n")',
    "an array of objects": 'frame(["n", "|O8", [1], "AAAAAAAAAAA="])',
    "a date that is none": 'frame(["D", "tomorrow"])',
    "a list as a key": 'frame(["m", ["l"], 1])',
}


def test_a_forged_frame_is_no_answer(load: Load) -> None:
    """On each descriptor that the submission can write to."""
    for name, data in FRAMES.items():
        with load(f"{textwrap.dedent(FORGED)}DATA = {data}\n") as solution, no_answer(name):
            solution.act()


KNOWS = """
    import sys

    def act(text):
        frame, known = sys._getframe(), {}
        while frame:
            known.update(frame.f_locals)
            frame = frame.f_back
        data = text.replace("TOKEN", known["token"]).encode()
        known["replies"].write(len(data).to_bytes(4, "big") + data)
        known["replies"].flush()
"""

REPLIES = {
    "bytes with letters of their own": '["t","TOKEN","value",["b","AAAA","x"]]',
    "bytes that are none": '["t","TOKEN","value",["b","A"]]',
    "an array of half a number": '["t","TOKEN","value",["n","<i8",["l",1],"AAAA"]]',
    "a time without an end": '["t","TOKEN","value",["e",1e999,0,0]]',
    "an error without a text": '["t","TOKEN","error",["t","ValueError"]]',
    "a shape of texts": '["t","TOKEN","value",["n","<i8",["x"],""]]',
}


def test_a_forged_reply_to_the_call_itself_is_no_exception(load: Load) -> None:
    """Whatever reads it on the host may raise: the test that expects an exception sees none."""
    for name, text in REPLIES.items():
        with load(KNOWS) as solution, no_answer(name):
            solution.act(text)


def test_the_names_of_an_error_are_bounded_before_they_are_read(load: Load) -> None:
    """A text of 20 MB would be millions of names."""
    with load(KNOWS) as solution, pytest.raises(RemoteError) as found:
        solution.act('["t","TOKEN","error",["t","' + "ab " * 7_000_000 + '","",""]]')
    assert len(found.value.type_names) == 50


LEAVES = """
    import contextlib
    heard = []
    class Account:
        balance = 999
        def __enter__(self): return self
        def __exit__(self, *error):
            heard.extend(map(repr, error))
            raise ValueError("mine")
    account = Account()
"""


def test_a_context_neither_replaces_nor_learns_the_host_s_exception(load: Load) -> None:
    """An AssertionError with the expected value leaves the block; an end without one may raise."""
    solution = load(LEAVES)
    with pytest.raises(AssertionError, match="the expected"), solution.account as account:
        assert account.balance == 0, "the expected value"
    assert "expected" not in "".join(solution.heard)
    with pytest.raises(RemoteError), solution.account:
        pass


def test_a_context_whose_process_ends_replaces_no_exception_of_the_host_s(load: Load) -> None:
    """A test that expects no answer would take that for the failed assertion."""
    solution = load("""
        import os

        class Account:
            def __enter__(self): return 5
            def __exit__(self, *error): os._exit(0)
    """)
    with pytest.raises(AssertionError, match="the expected"), solution.Account() as balance:
        assert balance == 0, "the expected value"


def test_no_relay_that_is_gone_makes_an_end_an_exception(gvisor: Gvisor, tmp_path: Path) -> None:
    """The figures have an error then, and the end of the process is still no answer."""
    (tmp_path / "solution.py").write_text("import os\ndef act(): os._exit(0)\n")
    with gvisor.sandbox(allow=["127.0.0.1:1"]) as box:
        solution = box.load(tmp_path / "solution.py")
        os.kill(relays()[0], signal.SIGKILL)
        with no_answer("a relay that is gone"):
            solution.act()


def test_a_load_has_no_home_that_another_one_writes(load: Load) -> None:
    """Modules of a user's site folder would run in each Python that another load starts."""
    assert (
        load("import os\ndef act(): return os.path.isdir(os.path.expanduser('~'))\n").act() is False
    )


# Opens the pipes and sockets of all other processes, as far as it may, and writes a reply to each.
REACHES = """
    import glob, os

    def reach():
        opened = []
        for path in glob.glob("/proc/[0-9]*/fd/*"):
            if path.split("/")[2] not in (str(os.getpid()), "self"):
                try:
                    if not os.readlink(path).startswith(("pipe", "socket", "host")):
                        continue
                    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                    os.write(fd, b"\\0\\0\\0\\1x")
                    opened.append(path)
                except OSError:
                    pass
        return opened
"""


def test_a_load_reaches_no_other_load_of_its_sandbox(gvisor_sandbox: Sandbox, load: Load) -> None:
    """Though a program does reach another one of its own user: each load has its own."""
    victim = load("import os\ndef add(a, b): return a + b\n")
    assert load(REACHES).reach() == []
    assert victim.add(2, 2) == 4
    code = textwrap.dedent(REACHES) + "print(reach())"
    with gvisor_sandbox.popen(["cat"]) as other:
        reached = gvisor_sandbox.exec(["python3", "-c", code], check=True).stdout
        assert other.stdout.read(1) == b"\0", reached


SPECIAL = """
    __array_interface__ __array_struct__ __array__ __fspath__ __index__ __dataclass_fields__
    __attrs_attrs__ __class__ __dict__ __eq__ __iter__ __reduce_ex__ __float__ __hash__ __bool__
"""
"""The names by which Python, numpy and pytest ask an object what it is."""


def test_no_special_name_of_an_object_is_asked_for(load: Load) -> None:
    """An object that has ``__array_interface__`` could have numpy read any memory of the host."""
    solution = load("""
        asked = []
        class Trap:
            def __getattribute__(self, name):
                asked.append(name)
                return {"data": (1, False), "shape": (8,), "typestr": "|u1", "version": 3}
        trap = Trap()
    """)
    trap: Any = solution.trap
    before = set(solution.asked)
    for name in SPECIAL.split():
        getattr(trap, name, None)
    assert not isinstance(trap, int | str | dict)
    assert set(solution.asked) == before


def test_the_texts_of_an_error_are_bounded_and_escaped(load: Load) -> None:
    """A type's name and a message may hold control characters, and be long."""
    solution = load("""
        Error = type("\\x1b[2J" + "x" * 100_000, (Exception,), {})
        def act():
            raise Error("::error::\\x1b[31m" + "y" * 10**7)
    """)
    with pytest.raises(RemoteError) as found:
        solution.act()
    error = found.value
    assert "\x1b" not in str(error)
    assert len(str(error)) < 100_000
    assert error.text.startswith("\\x3a:error::\\x1b[31my")
    name = "x>\n=== 1 passed in 0.01s ===\n<y"
    assert repr(load(f"value = type({name!r}, (), {{}})()\n").value) == (
        "<unverified x> === 1 passed in 0.01s === <y in the sandbox>"
    )


LIVES_ON = {
    "a fork bomb": """
        import os

        def act():
            while True:
                try:
                    os.fork()
                except OSError:
                    pass
    """,
    "a process that hides from its parents": """
        import os, subprocess

        def act():
            if not os.fork():
                os.setsid()
                subprocess.Popen(["sleep", "1000"], env={}, start_new_session=True)
            os._exit(0)
    """,
    "a process that is another one each time": """
        import os

        def act():
            while True:
                if os.fork():
                    os._exit(0)
                os.setsid()
    """,
    "a process in a namespace of its own": """
        import os, subprocess

        def act():
            subprocess.Popen(["unshare", "-Urpf", "sleep", "1000"], env={}, start_new_session=True)
            os._exit(0)
    """,
}

USERS = """
import os
found = set()
for name in os.listdir("/proc"):
    try:
        found.add(os.stat(f"/proc/{name}").st_uid if name.isdigit() else 0)
    except OSError:
        pass
print(*sorted(found))
"""


@pytest.mark.parametrize("source", LIVES_ON.values(), ids=LIVES_ON.keys())
def test_nothing_of_a_load_lives_after_it(gvisor_sandbox: Sandbox, load: Load, source: str) -> None:
    """The sandbox lives on, with its files and another load of it.

    A busy machine may take more than five seconds to end the thousands of processes of a fork bomb.
    Then the sandbox is killed, the next call says so, and the load is tried in the new sandbox.
    """
    for _try in range(3):
        with contextlib.suppress(PytestGvisorWarning):
            load_that_lives_on(gvisor_sandbox, load, source)
            return
    pytest.fail("three sandboxes were killed, one after the other")


def load_that_lives_on(gvisor_sandbox: Sandbox, load: Load, source: str) -> None:
    """The end of a load that does not want to end, beside another load."""
    gvisor_sandbox.put("/tmp/kept", "kept")
    with load("import os\ndef act(): return os.getuid()\n") as neighbour:
        uid = neighbour.act()
        with loaded_soon(load, source, 2) as solution, pytest.raises(NoAnswer):
            solution.act()
        done = gvisor_sandbox.exec(["python3", "-I", "-S", "-c", USERS], check=True)
        assert done.stdout == f"0 {uid}\n"
        assert neighbour.act() == uid
    assert gvisor_sandbox.get("/tmp/kept") == b"kept"


def test_a_warning_that_is_an_error_is_no_exception_of_a_load(
    gvisor_sandbox: Sandbox, load: Load
) -> None:
    """With ``-W error``, as here: a test that expects an exception sees none of the next load."""
    channel = gvisor_sandbox._live()
    channel.kill("a program lived on", replaceable=True)
    channel.join()
    with no_answer("the load in a new sandbox"):
        load("raise ValueError")
    assert load("def act(): return 4\n").act() == 4


LINKS = """
    import os

    def act():
        os.makedirs("/tmp/own/deep")
        os.symlink("/etc", "/tmp/own/folder")
        os.symlink("../../etc/hostname", "/tmp/own/file")
        os.symlink("/etc/hostname", "/tmp/file")
        os.symlink("/nowhere", "/tmp/nowhere")
        os.symlink("/etc", "/dev/shm/folder")
"""

WAYS = ["/tmp/own/folder/hostname", "/tmp/own/folder/new/file", "/tmp/own/file", "/tmp/file",
        "/tmp/own/deep/../file", "/tmp/nowhere", "/dev/shm/folder/hostname"]  # fmt: skip


def test_no_put_and_no_get_follows_a_link_of_a_submission(
    gvisor_sandbox: Sandbox, load: Load
) -> None:
    """Links of root's and of another user's are refused, and no file that a link names changes."""
    gvisor_sandbox.exec(["sh", "-c", "echo kept >/etc/hostname"], check=True)
    load(LINKS).act()
    for path in WAYS:
        for user in (None, 1000):
            with pytest.raises(InsideError) as found:
                gvisor_sandbox.put(path, "replaced", user=user)
            assert found.value.errno == errno.ELOOP, (path, user)
            with pytest.raises(InsideError) as found:
                gvisor_sandbox.get(path, user=user)
            assert found.value.errno in (errno.ELOOP, errno.ENOENT), (path, user)
    assert gvisor_sandbox.get("/etc/hostname") == b"kept\n"
    left = gvisor_sandbox.exec(["sh", "-c", "ls -d /etc/new /nowhere"])
    assert left.stdout == ""


SWAPS = """
    import itertools, os, threading

    def swap():
        place = "/tmp/race/x"
        for number in itertools.count():
            for act, *args in (
                (os.symlink, "/etc/race", place), (os.unlink, place),
                (os.mkdir, place), (os.rename, place, f"/tmp/race/{number}"),
            ):
                try:
                    act(*args)
                except OSError:  # a put has made the folder
                    pass

    def act():
        os.mkdir("/tmp/race")
        threading.Thread(target=swap, daemon=True).start()
"""


def test_no_put_follows_a_link_that_takes_the_place_of_a_folder(
    gvisor_sandbox: Sandbox, load: Load
) -> None:
    """However often a submission replaces one by the other, meanwhile."""
    gvisor_sandbox.exec(["mkdir", "/etc/race"], check=True)
    load(SWAPS).act()
    for _ in range(300):
        with contextlib.suppress(InsideError):
            gvisor_sandbox.put("/tmp/race/x/file", "data")
    assert gvisor_sandbox.exec(["ls", "/etc/race"], check=True).stdout == ""

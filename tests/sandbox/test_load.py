"""`Sandbox.load`: a module runs in the sandbox, and the assertion on the host."""

import copy
import dataclasses
import datetime as dt
import math
import os
import pickle
import signal
import textwrap
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import (
    Gvisor,
    Loaded,
    NoAnswer,
    Outcome,
    RemoteAttributeError,
    RemoteError,
    Sandbox,
    UsageError,
    empty,
)
from tests.sandbox.conftest import alive

SOLUTION = """
    import asyncio, collections, contextlib, dataclasses, os, sys, time

    def add(a, b=0):
        return a + b

    def same(value):
        return value

    def divide(a, b):
        print("dividing")
        return a / b

    class Stack:
        def __init__(self):
            self.items = []

        def push(self, item):
            self.items.append(item)

        def pop(self):
            return self.items.pop()

        def __getitem__(self, place):
            return self.items[place]

        def __setitem__(self, place, item):
            self.items[place] = item

        def __enter__(self):
            return self

        def __exit__(self, kind, error, trace):
            self.left = str(error)
            return True

    class Row(list):
        def last(self):
            return self[-1]

    @dataclasses.dataclass(frozen=True)
    class Point:
        x: int
        y: "Point | None" = None

        def shifted(self, by):
            return Point(self.x + by, self)

    def points():
        return [Point(1), {Point(2): 3}]

    async def later(value):
        await asyncio.sleep(0)
        return value

    def numbers(stop):
        for number in range(stop):
            yield number

    def count(text):
        return collections.Counter(text)

    def size(stack):
        return len(stack.items)
"""

VALUES = [
    None, True, False, 0, -1, 2**53, -(2**64), 10**5000, 0.1, -0.0, math.inf, -math.inf, 5e-324,
    "", "text\n\0", "\ud800", "\ud800\udc00", "\U0001f600", "h", b"", b"\0\xff", [], [1, [2.0]], (),
    ("l", 1), {}, {"a": 1, 2: (None,), (1, "x"): [b""], frozenset({1}): set()}, {1, "1", 1.5},
    frozenset({(1,)}), dt.datetime(2026, 1, 2, 3, 4, 5, 6),  # noqa: DTZ001
    dt.datetime(2026, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=-5))), dt.date(1, 1, 1),
    dt.time(23, 59, 59, 999999), dt.timedelta(days=-1, microseconds=1),
]  # fmt: skip
"""Data of each type, at its edges."""

Load = Callable[..., Loaded]


@pytest.fixture
def load(gvisor_sandbox: Sandbox, tmp_path: Path) -> Load:
    """Load a source from a file of the host."""

    def load(source: str = SOLUTION, **more: Any) -> Loaded:
        file = tmp_path / "solution.py"
        file.write_text(textwrap.dedent(source))
        return gvisor_sandbox.load(file, **more)

    return load


def test_functions_and_classes_are_called(load: Load) -> None:
    """A function gives data, and a class a handle whose methods work."""
    solution = load()
    assert solution.add(2, 2) == 4
    assert solution.add(a="x", b="y") == "xy"
    stack = solution.Stack()
    stack.push(1)
    stack.push({"two": 2})
    stack[0] = 5
    stack.name = "mine"
    assert (stack.items, stack[0], stack.name) == ([5, {"two": 2}], 5, "mine")
    assert solution.size(stack) == 2
    assert stack.pop() == {"two": 2}


def test_data_comes_back_as_it_went(load: Load) -> None:
    """The values have the host's own plain types, alone and together."""
    same = load().same
    for value in [*VALUES, VALUES]:
        back = same(value)
        # A comparison would find 0 equal to False, and a text of such an integer is refused.
        assert back == value
        assert type(back) is type(value)
        if value not in (10**5000, VALUES):
            both = back, value  # a set's order is that of its making
            one, two = (sorted(map(repr, v)) if type(v) is set else repr(v) for v in both)
            assert one == two
    assert math.isnan(same(math.nan))


def test_a_value_of_a_subclass_is_its_base_s_unless_its_class_was_called(load: Load) -> None:
    """So a Counter is a dict; and a new object keeps its methods."""
    solution = load()
    assert solution.count("hello") == {"h": 1, "e": 1, "l": 2, "o": 1}
    row = solution.Row([1, 2])
    assert row.last() == 2
    assert solution.same(row) == [1, 2]


def test_a_dataclass_is_a_mapping(load: Load) -> None:
    """Except where it is a key, and where its class was called."""
    solution = load()
    first, second = solution.points()
    assert first == {"x": 1, "y": None}
    ((key, value),) = second.items()
    assert (key.x, value) == (2, 3)
    assert solution.Point(1).shifted(2) == {"x": 3, "y": {"x": 1, "y": None}}


def test_async_functions_are_awaited_and_generators_iterated(load: Load) -> None:
    """Inside: the host gets what they give."""
    solution = load()
    assert solution.later("now") == "now"
    assert list(solution.numbers(3)) == [0, 1, 2]
    assert 7 in solution.numbers(10)


def test_a_context_manager_never_suppresses_an_exception_of_the_host(load: Load) -> None:
    """Its ``__exit__`` learns that there is one, and its result decides nothing."""
    solution = load()
    with solution.Stack() as stack:
        stack.push(1)
    assert stack.left == "None"
    with pytest.raises(AssertionError, match="mine"), solution.Stack() as stack:
        raise AssertionError("mine")
    assert stack.left == "the test has raised"


def test_an_exception_is_a_remote_error(load: Load) -> None:
    """With the names of its types, its text, and the traceback in the sandbox."""
    solution = load()
    with pytest.raises(RemoteError, match="raised ZeroDivisionError: ") as found:
        solution.divide(1, 0)
    error = found.value
    assert error.type_name == "ZeroDivisionError"
    assert error.type_names[1:] == ("ArithmeticError", "Exception", "BaseException")
    assert error.text == "division by zero"
    assert 'File "solution.py", line 12, in divide\n    return a / b' in error.traceback
    assert "loaded.py" not in error.traceback
    assert solution.divide(1, 2) == 0.5


def test_a_missing_attribute_is_one_for_python_too(load: Load) -> None:
    """`hasattr` works; names that mean something to Python are not asked for."""
    solution = load()
    assert hasattr(solution, "add")
    assert not hasattr(solution, "subtract")
    with pytest.raises(RemoteAttributeError, match="subtract"):
        _ = solution.subtract
    with pytest.raises(AttributeError, match="is not asked for __file__"):
        _ = solution.__file__


def test_a_handle_is_equal_to_itself_alone_and_has_no_truth_value(load: Load) -> None:
    """And says that nobody has verified what it is."""
    solution = load()
    one, other = solution.Stack(), solution.Stack
    assert one == one  # noqa: PLR0124
    assert one not in (solution.Stack(), 4, None, other)
    assert repr(one) == "<unverified Stack in the sandbox>"
    with pytest.raises(TypeError, match="no truth value"):
        bool(one)


def test_a_handle_has_the_methods_of_each_kind_of_object(load: Load) -> None:
    """So `callable` and `isinstance` tell nothing of an object that is neither."""
    stack = load().Stack()
    assert callable(stack)
    with pytest.raises(RemoteError, match="not callable"):
        stack()
    assert isinstance(stack, Iterable)


def test_an_argument_that_is_no_data_is_the_caller_s_error(load: Load, tmp_path: Path) -> None:
    """A function of the host cannot be called from inside. The module stays usable."""
    solution = load()
    for value in (print, object(), [tmp_path], load().add):
        with pytest.raises(UsageError, match="a loaded module takes data and its own handles"):
            solution.same(value)
    assert solution.add(1) == 1


def test_a_deadline_ends_the_process_and_the_next_load_works(load: Load) -> None:
    """`NoAnswer` is no `Exception`, and has the output so far."""
    source = "import time\ndef wait():\n    print('begun', flush=True)\n    time.sleep(600)\n"
    seconds = 4
    try:
        solution = load(source, timeout=seconds)
    except NoAnswer:  # the machine is busy
        seconds = 60
        solution = load(source, timeout=seconds)
    with pytest.raises(NoAnswer, match=rf"no answer within {seconds} s\n\| begun") as found:
        solution.wait()
    assert not isinstance(found.value, Exception)
    assert found.value.completed is not None
    assert found.value.completed.outcome is Outcome.TIMED_OUT
    with pytest.raises(NoAnswer, match=f"gone: no answer within {seconds} s"):
        solution.wait()
    assert load().add(2, 2) == 4


def test_a_crash_is_no_answer_and_the_next_load_works(load: Load) -> None:
    """The error has the exit status or the signal, and standard error."""
    source = "import os, sys\ndef crash():\n    print('why', file=sys.stderr)\n    os.abort()\n"
    with pytest.raises(NoAnswer, match=r"signal 6 \(SIGABRT\)\n\| why") as found:
        load(source).crash()
    assert found.value.completed is not None
    assert found.value.completed.returncode == -6
    assert load().add(2, 2) == 4


def test_what_a_module_prints_is_no_reply(load: Load) -> None:
    """The module prints to standard error, and its standard input is empty."""
    source = "import sys\nprint('hello')\ndef read():\n    print(1)\n    return sys.stdin.read()\n"
    solution = load(source)
    assert solution.read() == ""


def test_a_module_is_imported_by_its_name(gvisor_sandbox: Sandbox) -> None:
    """From the sandbox's own Python, or from the folder ``cwd`` of the sandbox."""
    assert gvisor_sandbox.load("json.decoder").JSONDecoder().decode("[1]") == [1]
    gvisor_sandbox.put("/app/tool/__init__.py", "from tool.part import value\n")
    gvisor_sandbox.put("/app/tool/part.py", "value = 5\n")
    assert gvisor_sandbox.load("tool.part", cwd="/app").value == 5
    with pytest.raises(RemoteError, match="ModuleNotFoundError: No module named 'tool'"):
        gvisor_sandbox.load("tool.part")


def test_an_error_of_the_import_leaves_no_process(gvisor_sandbox: Sandbox, load: Load) -> None:
    """Nor does the end of a ``with``."""
    with pytest.raises(RemoteError, match="SyntaxError"):
        load("def broken(:\n")
    with load() as solution:
        assert len(alive(gvisor_sandbox, "loaded.py")) == 1
    assert alive(gvisor_sandbox, "loaded.py") == []
    with pytest.raises(NoAnswer, match="gone: it was closed"):
        solution.add(1)


def test_a_file_that_cannot_be_loaded_says_why(gvisor_sandbox: Sandbox, tmp_path: Path) -> None:
    """A link is not followed: a stranger's could name a secret of the user's."""
    link = tmp_path / "solution.py"
    link.symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match=r"cannot load .*solution.py: Too many levels of symbolic"):
        gvisor_sandbox.load(link)
    with pytest.raises(UsageError, match=r"cannot load missing\.py: No such file"):
        gvisor_sandbox.load("missing.py")
    fifo, folder = tmp_path / "fifo.py", tmp_path / "folder.py"
    os.mkfifo(fifo)
    folder.mkdir()
    for path, problem in (
        (fifo, "no regular file"),
        (folder, "Is a directory"),
        ("a\0.py", "null"),
    ):
        with pytest.raises(UsageError, match=problem):
            gvisor_sandbox.load(path)


def test_a_sandbox_without_python_says_so(gvisor: Gvisor, busybox: bytes) -> None:
    """The guest's own Python is not that of the module."""
    with (
        gvisor.sandbox(rootfs=empty({"bin/busybox": busybox})) as box,
        pytest.raises(NoAnswer, match="A load needs python3 in the sandbox"),
    ):
        box.load("json")


def test_each_load_has_a_user_of_its_own(load: Load) -> None:
    """Without rights in the sandbox, and without the other's files of /proc."""
    one, other = load(), load()
    uids = {solution.os.getuid() for solution in (one, other)}
    assert len(uids) == 2
    assert min(uids) > 65535
    with pytest.raises(RemoteError, match="PermissionError"):
        one.os.kill(other.os.getpid(), 9)


def test_threads_may_share_a_module(load: Load) -> None:
    """Each gets the answer to its own call."""
    solution = load()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(solution.add, range(100))) == [*range(100)]


def test_handles_that_are_dropped_are_dropped_inside(load: Load) -> None:
    """So more objects than the bound may be made, one after the other."""
    solution = load("""
        import gc
        class Thing: pass
        def things():
            return sum(type(one) is Thing for one in gc.get_objects())
    """)
    for _ in range(50):
        solution.Thing()
    assert solution.things() == 0


@dataclasses.dataclass
class Pair:
    """A dataclass of the host's."""

    left: int
    right: str


def test_a_dataclass_of_the_host_goes_in_as_a_mapping(load: Load) -> None:
    """The module gets a dict."""
    assert load().same(Pair(1, "x")) == {"left": 1, "right": "x"}


def test_a_handle_is_neither_copied_nor_pickled(load: Load) -> None:
    """The end of a copy would drop the object of both."""
    stack = load().Stack()
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            copied([stack] if copied is not copy.copy else stack)
    stack.push(1)
    assert stack.pop() == 1


def test_an_error_of_a_signal_s_handler_is_no_deadline_of_a_call(load: Load) -> None:
    """Such handlers often raise TimeoutError, and the module has not been asked for so long."""

    def late(*_: object) -> None:
        raise TimeoutError("of the test itself")

    module = load()
    before = signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(TimeoutError, match="of the test itself"):
            module.time.sleep(60)
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(NoAnswer, match="an earlier call was interrupted"):
        module.add(1)

"""When a sandbox is saved at its gate, and when a later one begins as its copy."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from pytest_gvisor.base.errors import LaunchError, SnapshotError
from pytest_gvisor.base.settings import Settings
from pytest_gvisor.inside.boot import copies, start
from pytest_gvisor.inside.boot.copies import Copies
from pytest_gvisor.inside.view import host_files
from pytest_gvisor.inside.wire.link import Died
from tests.unit.inside.boot.test_early import plan_of


class Sandbox:
    """Takes the place of a link: `faults` are raised by the calls of their names."""

    def __init__(self, folder: Path, **faults: Exception) -> None:
        self.did: list[str] = []
        self._folder = folder
        self._faults = faults
        self.supervisor = self
        self.copy, self.show = False, None
        self.held: list[str] | None = []
        self.traced: Any = None

    def _do(self, name: str) -> None:
        self.did.append(name)
        if name in self._faults:
            raise self._faults[name]

    def send(self, op: str, **_fields: object) -> None:
        """Note the second command."""
        assert op == "collect"
        self._do("went on")

    def rest(self) -> list[str] | None:
        """Name the folders that are in use."""
        self._do("rest")
        return self.held

    def save(self) -> str:
        """Write an image."""
        self._do("save")
        image = self._folder / "image"
        image.mkdir()
        return str(image)

    def drain_events(self) -> None:
        """Take the last event: a socket that sends datagrams."""
        if self.traced is not None:
            self.traced.recorder.has_datagrams = True

    def wait(self) -> None:
        """Note that somebody waits."""
        self._do("wait")

    def greet(self) -> None:
        """Note the greeting."""
        self._do("greet")

    def count_from_here(self) -> None:
        """Note that somebody waits from now on."""
        self._do("count")

    def close(self) -> None:
        """Note the end."""
        self._do("close")

    def told(self, why: str) -> str:
        """Describe it."""
        return "told"


@dataclasses.dataclass(kw_only=True)
class Made:
    """The saved sandboxes of a run, and all that is started."""

    copies: Copies
    plan: start.Plan
    folder: Path
    faults: dict[str, Exception] = dataclasses.field(default_factory=dict)
    held: list[str] | None = dataclasses.field(default_factory=list)
    traced: bool = False
    started: list[tuple[str, Sandbox]] = dataclasses.field(default_factory=list)

    def begin(self, **changes: Any) -> str:
        """Begin a sandbox by a plan with changes; return how it began."""
        plan = dataclasses.replace(self.plan, **changes)
        link = self.copies.begin(plan, start.Opening({}, None))
        (how,) = (how for how, sandbox in self.started if sandbox is cast("Any", link))
        return how

    def start(self, how: str) -> Any:
        """Start one in the place of `launch`."""
        if how != "cold" and (error := self.faults.get("launch")):
            raise error
        sandbox = Sandbox(self.folder, **self.faults)
        sandbox.held = self.held
        if self.traced:
            sandbox.traced = SimpleNamespace(recorder=SimpleNamespace(has_datagrams=False))
        self.started.append((how, sandbox))
        return sandbox

    def images(self) -> list[str]:
        """The saved images."""
        return sorted(path.name for path in self.folder.glob("saved-*"))

    def said(self, verbosity: int = 1) -> str:
        """The lines of the summary."""
        lines: list[str] = []
        self.copies._config.get_verbosity = lambda: verbosity  # type: ignore[method-assign,assignment,misc]
        reporter = SimpleNamespace(write_line=lines.append)
        self.copies.pytest_terminal_summary(cast("Any", reporter))
        return "\n".join(lines)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project's folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "test_it.py").write_text("")
    return folder


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, project: Path) -> Made:
    """The saved sandboxes of a run in the project."""
    config: Any = SimpleNamespace(
        getoption=lambda _: "", rootpath=project,
        invocation_params=SimpleNamespace(dir=project),
        pluginmanager=SimpleNamespace(get_plugin=lambda _name: None),
    )  # fmt: skip
    session = SimpleNamespace(path=str(tmp_path))
    engine = SimpleNamespace(launcher=SimpleNamespace(session=lambda: session))
    found = Made(copies=Copies(config), plan=plan_of(project), folder=tmp_path)
    monkeypatch.setattr(copies, "engine_of", lambda _: engine)
    monkeypatch.setattr(copies, "launch", lambda _config, _plan, saved: found.start(saved))
    monkeypatch.setattr(start, "launch", lambda *_, **_also: found.start("cold"))
    return found


def test_the_first_sandbox_is_saved_and_those_like_it_are_copies(made: Made) -> None:
    """The files of the command line may differ; the summary counts the copies, with `-v`."""
    assert made.begin() == "cold"
    (image,) = made.images()
    for args in (["a"], ["b"]):
        command = {**made.plan.command, "args": args}
        assert made.begin(command=command).endswith(image)
    assert [sandbox.did for _how, sandbox in made.started] == [
        ["rest", "save", "went on"], ["went on", "wait"], ["went on", "wait"],
    ]  # fmt: skip
    assert made.said() == "gvisor: 2 sandboxes of tests inside began as copies of a saved one"
    assert not made.said(verbosity=0)


def test_a_copy_that_is_traced_knows_of_the_sockets_of_the_saved_sandbox(made: Made) -> None:
    """The last event may be read at the save alone."""
    made.traced = True
    made.begin()
    made.begin()
    (_, first), (_, copy) = made.started
    assert first.did != copy.did
    assert copy.traced.recorder.has_datagrams


CHANGES: dict[str, tuple[Callable[[Path], object], bool, bool]] = {
    "a program": (lambda folder: (folder / "test_it.py").write_text("x = 1"), True, True),
    "a new one": (lambda folder: (folder / "new.py").write_text("x = 1"), True, True),
    "a result": (lambda folder: (folder / "out.txt").write_text("x"), False, True),
    "nothing": (lambda _folder: None, False, False),
}
"""What the host does, and whether a copy is refused: of itself, and where its folder is in use."""


@pytest.mark.parametrize("in_use", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_refused_where_it_would_not_see_what_has_changed(
    change: str, made: Made, project: Path, *, in_use: bool
) -> None:
    """The old image is removed, and the next sandbox is saved."""
    act, refused, refused_in_use = CHANGES[change]
    made.held = [str(project / "a"), "/usr/lib"] if in_use else ["/usr/lib"]
    assert made.begin() == "cold"
    before = made.images()
    act(project)
    assert (made.begin() == "cold") == (refused_in_use if in_use else refused)
    assert (made.images() != before) == (refused_in_use if in_use else refused)
    assert ("had changed" in made.said()) == (refused_in_use if in_use else refused)
    assert len(made.images()) == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [("launch", LaunchError("fork", "no")), ("wait", Died("no")), ("wait", MemoryError())],
)
def test_a_copy_that_does_not_go_on_is_replaced(fault: str, error: Exception, made: Made) -> None:
    """The second time nothing is tried any more; the summary says what happened first."""
    assert made.begin() == "cold"
    made.faults[fault] = error
    assert made.begin() == made.begin() == "cold"
    copied = [sandbox for how, sandbox in made.started if how != "cold"]
    assert all(sandbox.did[-1] == "close" for sandbox in copied)
    made.faults.clear()
    assert made.begin() == made.begin() == "cold"
    assert not made.images()
    assert "did not begin as copies" in made.said()


def test_a_sandbox_that_is_lost_as_it_is_saved_is_replaced(made: Made) -> None:
    """The test runs in a fresh one."""
    made.faults["save"] = SnapshotError("no space")
    assert made.begin() == "cold"
    assert [sandbox.did for _how, sandbox in made.started] == [
        ["rest", "save", "close"], ["went on"],
    ]  # fmt: skip
    assert "did not begin as copies: no space" in made.said()


@pytest.mark.parametrize("error", [Died("gone"), SnapshotError("it repeats"), None])
def test_a_sandbox_that_does_not_come_to_its_gate_is_left_to_its_test(
    error: Exception | None, made: Made
) -> None:
    """Whoever waits for its tests says why there are none, or the summary."""
    if error is None:
        made.held = None
    else:
        made.faults["rest"] = error
    assert made.begin() == "cold"
    assert [sandbox.did for _how, sandbox in made.started] == [["rest", "went on"]]
    assert not made.images()
    assert ("did not begin as copies: it repeats" in made.said()) == (type(error) is SnapshotError)


@pytest.mark.parametrize("change", ["a program", "data in use", "another plan"])
def test_a_copy_ahead_that_may_have_seen_old_files_is_not_taken(
    change: str, made: Made, project: Path
) -> None:
    """The copy is removed; where only data has changed, another takes its place."""
    (project / "data.txt").write_text("old")
    made.held = [str(project)]
    made.begin()
    made.copies.prepare()
    changes: dict[str, Any] = {}
    if change == "a program":
        (project / "test_it.py").write_text("x = 1")
    elif change == "data in use":
        (project / "data.txt").write_text("newer")
    else:
        made.begin(settings=Settings(timeout=3))
        changes = {"settings": Settings(timeout=3)}
    assert (made.begin(**changes) == "cold") == (change == "a program")
    assert made.started[1][1].did == ["greet", "close"]


@pytest.mark.fault("G6")
def test_a_copy_ahead_that_has_no_memory_is_left_to_its_test(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test that runs meanwhile is another one, and goes on."""
    made.begin()
    with monkeypatch.context() as patch:
        patch.setattr(host_files, "details", Mock(side_effect=MemoryError))
        made.copies.prepare()
    assert len(made.started) == 1
    made.copies.prepare()
    assert made.started[1][1].did == ["greet"]
    assert made.begin() != "cold"


@pytest.mark.fault("G6")
def test_no_sandbox_is_left_that_has_no_memory_as_it_is_saved(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test fails, and the next one starts another sandbox."""
    monkeypatch.setattr(host_files, "names", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        made.begin()
    assert [sandbox.did for _how, sandbox in made.started] == [["rest", "close"]]

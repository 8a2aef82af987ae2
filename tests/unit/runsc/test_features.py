"""The features that a runsc reports, and the ways in which it can fail to."""

import contextlib
import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_gvisor.base.errors import LaunchError, RunscFailed, UnwantedRelease
from pytest_gvisor.base.settings import Platform
from pytest_gvisor.programs.proc import children_of_self
from pytest_gvisor.runsc import features, locate
from tests.unit.runsc.conftest import FakeRunsc
from tests.waiting import wait_for


def read(path: Path | str, *, deadline: float = features.DEADLINE) -> features.Features:
    """The features of the file, with its descriptor closed again."""
    judged = locate.find(str(path))
    try:
        return features.parse(judged, features.ask(judged, deadline=deadline))
    finally:
        judged.close()


def failure(path: Path, *, deadline: float = features.DEADLINE) -> RunscFailed:
    """The error of reading the file's features; its processes are gone then."""
    before = children_of_self()  # the keeper of the running pytest may be among them
    with pytest.raises(RunscFailed) as caught:
        read(path, deadline=deadline)
    assert children_of_self() == before
    wait_for(lambda: not executing(path), "the kill of an orphan")
    return caught.value


def executing(path: Path) -> list[str]:
    """The processes whose executable is the file."""
    links = []
    for link in Path("/proc").glob("[0-9]*/exe"):
        try:
            links.append((link.parent.name, os.readlink(link)))
        except OSError:
            continue
    return [pid for pid, target in links if target == str(path)]


# --- versions


@pytest.mark.fault("A12")
@pytest.mark.parametrize(
    ("text", "version", "date"),
    [
        ("0.0~20240729.0", "20240729.0", dt.date(2024, 7, 29)),
        ("release-20240729.0", "20240729.0", dt.date(2024, 7, 29)),
        ("release-20260817.0-3-gabc", "20260817.0-3-gabc", dt.date(2026, 8, 17)),
        ("VERSION_MISSING", "VERSION_MISSING", None),
        ("", "", None),
        ("20241399.0", "20241399.0", None),
        ("1202407290", "1202407290", None),
        (" release-20240729.0\n", "20240729.0", dt.date(2024, 7, 29)),
    ],
)  # fmt: skip
def test_versions_are_read_in_every_form(text: str, version: str, date: dt.date | None) -> None:
    """Debian's, upstream's and Nix's forms; a date only where there is a real one."""
    assert features.parse_version(text) == (version, date)


# --- the real one


@pytest.mark.parametrize(
    ("date", "platform", "expected"),
    [
        (dt.date(2024, 7, 29), Platform.SYSTRAP, True),
        (dt.date(2026, 7, 13), Platform.PTRACE, True),
        (dt.date(2026, 7, 13), Platform.KVM, False),
        (dt.date(2026, 7, 13), Platform("slimvm"), False),
        (dt.date(2026, 7, 14), Platform.SYSTRAP, False),
        (None, Platform.SYSTRAP, False),
    ],
)
def test_a_registration_is_in_vain_on_known_releases_and_platforms(
    date: dt.date | None, platform: Platform, expected: bool
) -> None:
    """Only a release that registers, on a platform that does not use it, is spared that."""
    assert features.registers_in_vain(date, platform) is expected


# --- releases


def test_a_release_without_a_flag_of_20240729_is_refused(fake_runsc: FakeRunsc) -> None:
    """A build from source has no date: the flag tells."""
    path = fake_runsc(
        version='puts("runsc version VERSION_MISSING")',
        flags=r'fputs("  -directfs\n    \tx.\n  -root string\n    \tx.\n", stderr)',
    )
    with pytest.raises(
        UnwantedRelease, match=r"^runsc VERSION_MISSING \(.*\) is older than 20240729"
    ):
        read(path)


def test_every_platform_that_is_listed_counts(fake_runsc: FakeRunsc) -> None:
    """A platform counts also if this version does not know it; other lines are ignored."""
    path = fake_runsc(platforms='puts("systrap\\nslimvm\\n\\nkvm-not\\nall\\nNot a name")')
    assert read(path).platforms == {Platform.SYSTRAP, Platform("slimvm")}


def test_every_group_of_subcommands_counts(fake_runsc: FakeRunsc) -> None:
    """Each group of subcommands is read, and the help topics after them are not."""
    path = fake_runsc(
        help='puts("Usage:\\n\\nSubcommands:\\n\\trun  run it\\n\\n'
        "Subcommands for debug:\\n\\tstate\\tshow\\n\\n"
        'Additional help topics (x):\\n\\tplatforms  list\\n")'
    )
    assert read(path).subcommands == {"run", "state"}


# --- failures


@pytest.mark.fault("A12")
@pytest.mark.parametrize("question", ["version", "flags", "help", "platforms"])
def test_a_question_without_answer_ends_at_the_deadline(
    question: str, fake_runsc: FakeRunsc
) -> None:
    """A hang in any of the four is a typed error in time, and nothing is left."""
    start = time.monotonic()
    error = failure(fake_runsc(**{question: "pause()"}), deadline=0.5)
    assert 0.5 <= time.monotonic() - start < 19
    assert "did not answer in time" in error.message


@pytest.mark.fault("A12")
def test_one_that_ignores_signals_is_killed(fake_runsc: FakeRunsc) -> None:
    """A descendant in the group that ignores SIGTERM and SIGHUP is gone as well."""
    code = "signal(SIGTERM, SIG_IGN); signal(SIGHUP, SIG_IGN); fork(); for (;;) pause()"
    failure(fake_runsc(version=code), deadline=0.3)


def test_one_that_closes_its_output_and_stays_is_killed(fake_runsc: FakeRunsc) -> None:
    """The end of the output is not the end of the process, which is waited for no longer."""
    failure(fake_runsc(version="close(1); close(2); pause()"), deadline=0.3)


def test_a_descendant_that_holds_the_pipe_does_not_delay(fake_runsc: FakeRunsc) -> None:
    """The answer is complete when runsc ends, although its output is still open."""
    path = fake_runsc(
        version='puts("runsc version 1"); fflush(stdout); if (!fork()) for (;;) pause()'
    )
    start = time.monotonic()
    assert read(path).version == "1"
    assert time.monotonic() - start < 19
    wait_for(lambda: not executing(path), "the kill of an orphan")


@pytest.mark.fault("A12")
@pytest.mark.parametrize("question", ["version", "flags"])
def test_endless_output_is_cut(question: str, fake_runsc: FakeRunsc) -> None:
    """A gigabyte is not read to its end: over the limit it is killed."""
    flood = 'for (long i = 0; i < (1L << 24); i++) puts("%s")' % ("x" * 63)
    start = time.monotonic()
    error = failure(fake_runsc(**{question: flood}))
    assert time.monotonic() - start < 19
    assert "printed more than 262144 bytes" in error.message
    assert len(error.stderr) <= 400


@pytest.mark.fault("A12")
def test_what_a_terminal_would_act_on_is_escaped(fake_runsc: FakeRunsc) -> None:
    """Control characters of the output are escapes in versions and in errors."""
    esc = r'puts("runsc version \x1b[2J\xff\u202e1")'
    assert read(fake_runsc(version=esc)).version == r"\x1b[2J\xff\u202e1"
    error = failure(fake_runsc(version=r'puts("\x1b[2J\a")'))
    assert r"\x1b[2J\x07" in error.stderr
    assert str(error).isprintable() or set(str(error)) & {"\n"}
    assert "\x1b" not in str(error)


@pytest.mark.parametrize("at_once", [False, True])
def test_a_handler_that_waits_for_every_child_changes_nothing(
    at_once: bool, fake_runsc: FakeRunsc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process of a question has no number any more when the answer is read, or before."""
    opened = os.pidfd_open

    def late(pid: int, flags: int = 0) -> int:
        os.waitpid(pid, 0)
        return opened(pid, flags)

    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    path = fake_runsc()
    expected = read(path)
    if at_once:
        monkeypatch.setattr(os, "pidfd_open", late)
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL if at_once else reap)
    try:
        assert read(path) == expected
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_killed_runsc_is_a_failure(fake_runsc: FakeRunsc) -> None:
    """An answer of a process that a signal ended is not used."""
    error = failure(fake_runsc(help='puts("Subcommands:\\n\\trun x"); fflush(stdout); abort()'))
    assert "ended by signal 6" in error.message
    assert error.command.endswith(" help")


@pytest.mark.parametrize("question", ["version", "flags", "help"])
def test_what_does_not_answer_as_runsc_is_a_failure(question: str, fake_runsc: FakeRunsc) -> None:
    """Another program of that name is recognized by its answers."""
    error = failure(fake_runsc(**{question: 'puts("Hello")'}))
    assert "does not answer as runsc does: 'Hello\\n'" in error.message


@pytest.mark.fault("A10")
def test_what_the_kernel_cannot_start_is_a_failure(fake_runsc: FakeRunsc) -> None:
    """A broken ELF file with a valid header is a typed error."""
    path = fake_runsc()
    with path.open("r+b") as file:
        file.seek(54)  # e_phentsize: the kernel says ENOEXEC to any other than its own
        file.write(b"\0")
    assert "cannot be executed" in failure(path).message


CLOSED = """
import os, sys
from pytest_gvisor.base.errors import RunscFailed
from pytest_gvisor.runsc import features, locate
judged = locate.find(sys.argv[1])
for fd in map(int, sys.argv[3:]):
    os.close(fd)
try:
    features.ask(judged)
except RunscFailed as error:
    with open(sys.argv[2], "w") as file:
        file.write(error.message)
"""


@pytest.mark.parametrize("closed", [(0, 1), (1, 2), (0, 2)])
def test_with_closed_standard_streams_the_reason_comes_all_the_same(
    closed: tuple[int, ...], fake_runsc: FakeRunsc, tmp_path: Path
) -> None:
    """The pipe that it comes through has none of their numbers."""
    path, told = fake_runsc(), tmp_path / "told"
    with path.open("r+b") as file:
        file.seek(54)
        file.write(b"\0")
    argv = [sys.executable, "-c", CLOSED, str(path), str(told), *map(str, closed)]
    subprocess.run(argv, check=False, timeout=60)
    assert "cannot be executed" in told.read_text()


def test_runsc_gets_a_fixed_environment(fake_runsc: FakeRunsc, tmp_path: Path) -> None:
    """No variable of the caller reaches runsc, which starts in / without a terminal."""
    marker = tmp_path / "seen"
    code = (
        f'FILE *f = fopen("{marker}", "w"); extern char **environ; '
        'for (char **e = environ; *e; e++) fprintf(f, "%s\\n", *e); '
        'char b[99]; fprintf(f, "%s %d %d", getcwd(b, 99), getsid(0) == getpid(), getchar()); '
        'fclose(f); puts("runsc version 1")'
    )
    read(fake_runsc(version=code))
    assert marker.read_text().splitlines() == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/root",
        "/ 1 -1",
    ]


@pytest.mark.fault("D6")
def test_a_question_has_no_way_to_new_privileges_and_dies_with_who_asks(
    fake_runsc: FakeRunsc, tmp_path: Path
) -> None:
    """The question has no-new-privs, a parent-death signal, no blocked signal, no descriptor."""
    marker = tmp_path / "seen"
    code = (
        f'FILE *f = fopen("{marker}", "w"); int s = 0; prctl(PR_GET_PDEATHSIG, &s); '
        "sigset_t m; sigprocmask(SIG_BLOCK, 0, &m); "
        'fprintf(f, "%d %d %d %d", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), s, '
        "sigismember(&m, SIGTERM), dup(0)); "
        'fclose(f); puts("runsc version 1")'
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        read(fake_runsc(version=code))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert marker.read_text() == f"1 {signal.SIGKILL} 0 4"


@pytest.mark.fault("D7")
@pytest.mark.parametrize(
    ("call", "stage"),
    [("set_no_new_privs", "no_new_privs"), ("set_parent_death_signal", "session")],
)
def test_a_refused_call_on_the_way_to_a_question_is_named(
    fake_runsc: FakeRunsc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, stage: str
) -> None:
    """No question is asked without the call."""
    marker = tmp_path / "seen"
    path = fake_runsc(version=f'creat("{marker}", 0600); puts("runsc version 1")')
    for module in ("ask_runsc.py", "linux.py", "paths.py"):
        shutil.copy(Path(features._PROGRAM).with_name(module), tmp_path / module)
    with (tmp_path / "linux.py").open("a") as file:
        file.write(f"\n\ndef {call}(*_):\n    raise OSError(1, 'refused in {call}')\n")
    monkeypatch.setattr(features, "_PROGRAM", str(tmp_path / "ask_runsc.py"))
    with pytest.raises(LaunchError, match=f"refused in {call}") as caught:
        read(path)
    assert (caught.value.stage, caught.value.errno) == (stage, 1)
    assert not marker.exists()


def test_the_pasteable_command_is_the_one_that_was_run(fake_runsc: FakeRunsc) -> None:
    """An error carries a command line that shows the same failure when it is pasted."""
    path = fake_runsc(flags='puts("Hello")')
    command = failure(path).command
    assert subprocess.check_output(["sh", "-c", command], text=True) == "Hello\n"

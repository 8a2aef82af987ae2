"""The features of each release of runsc: features.toml compared with each binary that is here."""

import contextlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pytest_gvisor
from pytest_gvisor import Gvisor, Outcome, Platform, Runsc, bind
from pytest_gvisor.plugin.fixture_values import BundleFactory
from pytest_gvisor.programs import leftovers
from pytest_gvisor.sessions.launcher import Launcher

CHECKOUT = Path(__file__).parents[2]
TABLE: dict[str, Any] = tomllib.loads(Path(__file__).with_name("features.toml").read_text())
FEATURES: dict[str, dict[str, Any]] = TABLE["features"]
CURRENT = "the one that is found"
OLDER = "runsc-2024"
BROKEN = "runsc-forky"
"""Built with a Go that its code misreads: it says what it has, and its sentry panics."""


@pytest.fixture
def binary(request: pytest.FixtureRequest) -> Iterator[Runsc]:
    """The runsc that the search finds, or one of scripts/older-runsc."""
    path = CHECKOUT / ".build" / request.param / "usr/bin/runsc"
    if request.param != CURRENT and not path.exists():
        pytest.skip(f"no Debian archive with .build/{request.param}: scripts/older-runsc")
    runsc = Runsc.find(None if request.param == CURRENT else str(path))
    yield runsc
    runsc.close()


@pytest.fixture
def on_it(binary: Runsc) -> Iterator[Gvisor]:
    """Runs workloads with that binary, in a session of its own."""
    launcher = Launcher()
    yield Gvisor(runsc=binary, platform=Platform.SYSTRAP, launcher=launcher)
    launcher.close()


def expected(runsc: Runsc, feature: str) -> bool:
    """The table's entry for a binary: the column of the youngest release up to its date."""
    assert runsc.date is not None
    date = f"{runsc.date:%Y%m%d}"
    column = max(release for release in TABLE["releases"] if release <= date)
    return column in FEATURES[feature]["has"]


def asked(kind: str) -> list[str]:
    """The features that are asked for in this way."""
    return [name for name, row in FEATURES.items() if row["ask"].split()[0] == kind]


def test_the_table_is_whole() -> None:
    """Each row has a text, a way to ask, and the table's releases that have the feature."""
    for name, row in FEATURES.items():
        assert set(row) == {"what", "ask", "has"}, name
        assert row["has"] == [one for one in TABLE["releases"] if one in row["has"]], name
    assert set(asked("run")) == set(RUNS)
    kinds = ("flag", "command", "platform", "run")
    assert sorted(FEATURES) == sorted(name for kind in kinds for name in asked(kind))


@pytest.mark.parametrize("binary", [CURRENT, OLDER, BROKEN], indirect=True)
def test_a_binary_says_that_it_has_what_the_table_says(binary: Runsc) -> None:
    """The flags, subcommands and platforms are those that the binary itself lists."""
    has: dict[str, frozenset[str]] = {
        "flag": binary.flags,
        "command": binary.subcommands,
        "platform": frozenset(binary.platforms),
    }
    told = {
        name: FEATURES[name]["ask"].split()[1] in listed
        for kind, listed in has.items()
        for name in asked(kind)
    }
    assert told == {name: expected(binary, name) for name in told}


@pytest.mark.parametrize("binary", [OLDER], indirect=True)
def test_the_older_binary_is_of_the_table_s_releases(binary: Runsc) -> None:
    """Debian's archive has a release of the table."""
    assert binary.version.partition(".")[0] in TABLE["releases"]


# --- features that only a run shows

Found = bool | str
"""Whether the feature exists; a text if the answer is unclear."""


def kernel_4_19(gvisor: Gvisor) -> Found:
    name = gvisor.run(["uname", "-r"]).stdout.strip()
    return {"4.19.0-gvisor": True, "4.4.0": False}.get(name, name)


def exact_statuses(gvisor: Gvisor) -> Found:
    ends = [gvisor.run(["sh", "-c", script]) for script in ("exit 137", "kill -KILL $$")]
    found = [(end.outcome, end.exact) for end in ends]
    return found == [(Outcome.EXITED, True), (Outcome.SIGNALLED, True)] or str(found)


def closed_descriptors(gvisor: Gvisor) -> Found:
    # The guest of a warm sandbox is not dumpable; its descriptor 1 is a pipe of the host's.
    with gvisor.sandbox() as sandbox:
        return sandbox.exec(["sh", "-c", ": 3< /proc/1/fd/1"]).returncode != 0


def sidecar_sentry(gvisor: Gvisor) -> Found:
    with gvisor.sandbox() as sandbox:
        sandbox.exec(["true"])
        names = {_of_process(pid, "comm").strip() for pid in _processes(gvisor)}
    beside = Path(gvisor.runsc.path).with_name("gvisor-bin")
    if expected(gvisor.runsc, "sidecar-sentry") and not beside.exists():
        pytest.skip("no sentry beside this release of runsc")  # as `go install` leaves it
    return any("gvisor_sentry".startswith(name) for name in names)


USERS = """
import os, sys
sys.path.insert(0, "/package")
from pytest_gvisor.guest.tests import identity
change = identity.Change(identity.Identity(
    uid=1000, gid=1001, groups=[27], home="/tmp/home", nested=True, others=0, roots=["/etc"]))
pid = os.fork()
if pid:
    change.serve(pid)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
change.become()
print(os.getuid(), os.getgid(), os.getgroups(), *(os.stat(p).st_uid for p in ("/tmp/home", "/etc")))
"""


def users_inside(gvisor: Gvisor) -> Found:
    mounts = [bind(Path(pytest_gvisor.__file__).parent, "/package/pytest_gvisor")]
    done = gvisor.run([sys.executable, "-I", "-c", USERS], mounts=mounts)
    return done.stdout == "1000 1001 [27] 1000 0\n" or f"{done.stdout}{done.stderr}"


def snapshots(gvisor: Gvisor) -> Found:
    with gvisor.sandbox() as sandbox:
        sandbox.put("/saved", "yes")
        snapshot = sandbox.snapshot()
    with snapshot, gvisor.sandbox(snapshot=snapshot) as copy:
        return copy.get("/saved") == b"yes"


def _state(gvisor: Gvisor) -> str:
    """runsc's state folder of the last run."""
    argv = gvisor.records[-1].argv
    return argv[argv.index("--root") + 1]


def _processes(gvisor: Gvisor) -> list[int]:
    return leftovers.processes(_state(gvisor), everywhere=True)


def _of_process(pid: int, name: str) -> str:
    """A file of /proc; empty where the process is gone or another user's."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_text()
    return ""


RUNS: dict[str, Callable[[Gvisor], Found] | None] = {
    "closed-descriptors": closed_descriptors,
    "exact-statuses": exact_statuses,
    "kernel-4-19": kernel_4_19,
    "sidecar-sentry": sidecar_sentry,
    "snapshots": snapshots,
    "users-inside": users_inside,
    "truncation-refused": None,  # a test of its own: here the kernel refuses, whatever runsc does
}


@pytest.mark.parametrize("binary", [CURRENT, OLDER], indirect=True)
@pytest.mark.parametrize("feature", [name for name, ask in RUNS.items() if ask])
def test_a_run_shows_what_the_table_says(feature: str, binary: Runsc, on_it: Gvisor) -> None:
    """The kernel's name, the statuses and the sidecars are the same in a real sandbox."""
    ask = RUNS[feature]
    assert ask is not None
    assert ask(on_it) == expected(binary, feature)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a mount namespace for bare runsc")
@pytest.mark.parametrize("binary", [CURRENT, OLDER], indirect=True)
def test_bare_runsc_refuses_to_truncate_as_the_table_says(
    binary: Runsc, oci_bundle: BundleFactory, tmp_path: Path
) -> None:
    """Bare runsc, without this package's protection, empties a read-only file on 20240729 only."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("kept\n")
    code = "import os; os.open('/data/file', os.O_RDONLY | os.O_TRUNC)"
    bundle = oci_bundle(["python3", "-I", "-c", code], mounts=[bind(data, "/data")])
    # What runsc mounts in its state folder goes with the namespace.
    done = subprocess.run(
        [
            "unshare", "--mount", "--propagation", "private",
            binary.path, "--root", str(tmp_path / "state"), "--ignore-cgroups", "--network", "none",
            "--platform", "systrap", "run", "--bundle", bundle.path, "truncates",
        ],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stderr
    kept = (data / "file").read_text() == "kept\n"
    assert kept == expected(binary, "truncation-refused"), done.stderr

"""Runs with ``--gvisor-shell`` return and raise as others do, although their sandboxes stay."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pytest_gvisor import Completed, Gvisor, GvisorError, Outcome
from pytest_gvisor.errors import ProgramNotStarted
from pytest_gvisor.harness.outlived import MOST
from pytest_gvisor.run import supervisor
from pytest_gvisor.run.request import Hooks, Record
from pytest_gvisor.sandbox import sandbox
from tests.sandbox.conftest import sentries

# A deadline of 3 s: on a busy machine a sandbox takes two to start, or has a longer try.
CASES: Mapping[str, tuple[list[str], dict[str, Any]]] = {
    "status": (["sh", "-c", "echo out; echo err >&2; exit 137"], {}),
    "signal": (["sh", "-c", "kill -SEGV $$"], {}),
    "bytes": (["sh", "-c", r"printf '\377\000\r\n'"], {}),
    "input": (["cat"], {"input": b"\0" * 300_000 + b"end"}),
    "pieces": (["wc", "-c"], {"input": [b"abc", b"", b"de"]}),
    "unread input": (["true"], {"input": b"x" * 3_000_000}),
    "cut": (["sh", "-c", "yes | head -c 100000"], {"max_output": 1000, "sha256": True}),
    "env": (["env"], {"env": {"A": "1", "EMPTY": ""}, "user": (7, 8)}),
    "user": (["sh", "-c", "id; pwd; umask; ulimit -n"], {"user": 1000, "cwd": "/usr"}),
    "background": (["sh", "-c", "sleep 1000 & echo begun"], {}),
    "time-out": (["sh", "-c", "echo begun; exec sleep 1000"], {"timeout": 3}),
    "term": (["sh", "-c", "trap 'echo told; exit 4' TERM; sleep 1000 & wait"], {"timeout": 3}),
    "not found": (["pyton3"], {}),
    "no such path": (["/nowhere/prog"], {}),
    "no program": (["/etc/passwd"], {}),
    "no folder": (["pwd"], {"cwd": "/nowhere"}),
    "check": (["false"], {"check": True}),
}


@pytest.fixture
def outliving(gvisor: Gvisor) -> Iterator[Gvisor]:
    """A harness that keeps the sandboxes of its runs."""
    made = Gvisor(
        runsc=gvisor.runsc,
        platform=gvisor.platform,
        launcher=gvisor._launcher,
        settings=dataclasses.replace(gvisor.settings, shell=True),
    )
    with contextlib.closing(made):
        yield made


def facts(gvisor: Gvisor, args: list[str], options: dict[str, Any]) -> dict[str, object]:
    """Everything that a caller sees of a run, apart from durations and command lines."""
    found: dict[str, object] = {}
    try:
        done: Completed | None = gvisor.run(args, **options)
    except GvisorError as error:
        words = str(error).replace(", with all that it had started", "")
        found |= {"error": type(error), "text": words, "hint": error.next_step}
        found["status"] = getattr(error, "exit_status", None)
        done = getattr(error, "completed", None)
    if done is not None:
        found |= dataclasses.asdict(done)
        for name in ("duration", "command", "usage"):
            del found[name]
        lines = done.stdout_bytes.split(b"\n")
        mark = b"PYTEST_GVISOR_EXEC="
        found["stdout_bytes"] = b"\n".join(sorted(li for li in lines if not li.startswith(mark)))
        if args == ["env"]:
            del found["stdout_total"], found["stdout_sha256"]
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_run_ends_as_without_the_option(
    gvisor: Gvisor, outliving: Gvisor, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outcome, status, signal, output, errors and their texts are the same."""
    # SIGTERM comes by a command of runsc, which takes longer than a second on a busy machine.
    for module in (supervisor, sandbox):
        monkeypatch.setattr(module, "TERM_GRACE", 20.0)
    if case == "user" and os.geteuid():
        pytest.skip("needs root: an unprivileged sandbox has one user")
    args, options = CASES[case]
    for longer in ({}, {"timeout": 30}) if "timeout" in options else ({},):
        one, two = (facts(by, args, options | longer) for by in (outliving, gvisor))
        if one.get("stdout_bytes") and two.get("stdout_bytes"):
            break
    assert one == two
    record, other = outliving.records[-1], gvisor.records[-1]
    assert len(outliving.records) == len(gvisor.records)
    assert record.args == other.args == tuple(args)
    assert type(record.error) is type(other.error)
    assert (record.completed is None) == (other.completed is None or case in NOT_STARTED)


NOT_STARTED = ("not found", "no such path", "no program")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: limits need a cgroup")
def test_a_limit_holds(gvisor: Gvisor, outliving: Gvisor) -> None:
    """A workload above its memory is out of memory, seen from both; one below it runs."""
    hungry = ["python3", "-c", "x = b'x' * (300 << 20)"]
    for harness in (gvisor, outliving):
        done = harness.run(hungry, memory="256M", timeout=120)
        assert (done.outcome, done.returncode) == (Outcome.OUT_OF_MEMORY, -9)
        assert harness.run(["true"], memory="256M", pids=100, cpus=0.5).returncode == 0


def test_the_last_sandboxes_stay_until_the_harness_is_closed(outliving: Gvisor) -> None:
    """At most four stay; the close of the harness ends them."""
    for _ in range(MOST + 1):
        outliving.run(["true"])
    assert len(outliving.outlived) == MOST
    assert len(sentries(outliving)) == MOST
    outliving.close()
    assert sentries(outliving) == []


def test_hooks_see_a_run_once(gvisor: Gvisor) -> None:
    """The hooks of plugins get the workload's record, once."""
    seen: list[Record] = []
    made = Gvisor(
        runsc=gvisor.runsc,
        platform=gvisor.platform,
        launcher=gvisor._launcher,
        settings=dataclasses.replace(gvisor.settings, shell=True),
        hooks=Hooks(run_finished=seen.append, modify_spec=lambda spec: spec.update(hostname="h")),
    )
    with contextlib.closing(made):
        assert made.run(["hostname"]).stdout == "h\n"
        with pytest.raises(ProgramNotStarted):
            made.run(["nope"])
    assert [record.args for record in seen] == [("hostname",), ("nope",)]

"""The rows of the table: each has a command, a peer, a number of rounds and a target."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks import daemon, egress, full, images, sessions, suites
from benchmarks.bench import DEADLINE, TRUE, Bench
from benchmarks.peers import OfficialPackage, install_package
from benchmarks.results import Figure, Phase, Result
from benchmarks.timing import Series, interleaved
from pytest_gvisor import Sandbox
from pytest_gvisor.base.completed import Outcome
from pytest_gvisor.run.request import Hooks, Record, workspace_of
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.run.specification import make_spec
from pytest_gvisor.run.supervisor import NAP

GIB = 1 << 30
MIB = 1 << 20
IN_A_ROW = 10
"""Programs that a round starts one after the other: a sandbox that has just run one is faster."""

_FLOOD = ["head", "-c", str(GIB), "/dev/zero"]
_START = ["python3", "-I", "-c", "pass"]
_OPENS = 100_000
_OPENING = (
    f"import os\nfor n in range({_OPENS}): os.close(os.open(f'/tmp/{{n % 100}}', os.O_CREAT))"
)
_FRESH = '`gvisor.run(["true"])`'


def fresh(bench: Bench, count: int) -> Iterator[Result]:
    """A fresh sandbox against bare runsc with the same bundle."""
    for each in bench.releases():
        yield _fresh(each, count)


def _fresh(bench: Bench, count: int) -> Result:
    bare, config = bench.bare("fresh", TRUE)
    bundle = bare.bundle("bundle", config)
    contenders = {"ours": bench.run, "peer": lambda: bare.run(bundle)}
    return Result(
        row="fresh", what=f"{_FRESH} on {bench.runsc.version}",
        against="bare `runsc run` of the same bundle", figure=Figure.RATIO,
        **interleaved(contenders, count, limit=20),
        target=0.80 if bench.is_older_than(2026) else 1.0,
    )  # fmt: skip


def in_docker(bench: Bench, count: int) -> Iterator[Result]:
    """A fresh sandbox against docker with runsc as its runtime."""
    with daemon.serving(bench.runsc.path, bench.platform.value) as docker:
        series = interleaved({"ours": bench.run, "peer": docker.run}, count, limit=15)
        yield Result(
            row="docker", what=_FRESH,
            against=f"`docker run --rm --runtime=runsc --network none` ({docker.about})",
            figure=Figure.RATIO, **series, target=0.40,
        )  # fmt: skip


def package(bench: Bench, count: int) -> Iterator[Result]:
    """A fresh sandbox against the official gvisor package, with this pid 1 and with a better one.

    ``Sandbox.close`` waits until the sandbox's process is gone, not only dead: as long as whoever
    is the parent of orphans here takes to reap it.
    """
    python = install_package(bench.folder)
    for reaped in (False, True):
        with OfficialPackage.started(python, bench.runsc.path, reaped=reaped) as official:
            series = interleaved({"ours": bench.run, "peer": official.run}, count, limit=12)
        parent = "orphans collected at once" if reaped else "orphans left to pid 1"
        yield Result(
            row="package", what=_FRESH,
            against=f"the gvisor package: `Sandbox()`, `exec`, `close` ({parent})",
            figure=Figure.RATIO, **series, target=0.1,
        )  # fmt: skip


def warm(bench: Bench, count: int) -> Iterator[Result]:
    """A program in a warm sandbox against ``runsc exec`` in the same one, alone and in a row."""
    for each in bench.releases():
        for times, limit in ((1, 12.0), (IN_A_ROW, 24.0)):
            yield _warm(each, count, times, limit)


def _warm(bench: Bench, count: int, times: int, limit: float) -> Result:
    with bench.gvisor.sandbox() as sandbox:
        argv = sandbox._record.argv
        flags = argv[1 : argv.index("run")]
        command = [bench.runsc.path, *flags, "exec", argv[-1], *TRUE]

        def peer() -> None:
            subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, check=True,
                timeout=DEADLINE,
            )  # fmt: skip

        rounds = {
            name: functools.partial(_in_a_row, each, times)
            for name, each in {"ours": lambda: _exec(sandbox), "peer": peer}.items()
        }
        measured = interleaved(rounds, count, limit=limit)
        series = {name: each.over(times) for name, each in measured.items()}
    row = "" if times == 1 else f", {times} in a row"
    return Result(
        row="exec", what=f'`sandbox.exec(["true"])` on {bench.runsc.version}{row}',
        against="`runsc exec` in the same sandbox", figure=Figure.RATIO, **series,
        target=0.55 if bench.is_older_than(2026) else 0.45,
    )  # fmt: skip


def _exec(sandbox: Sandbox) -> None:
    if sandbox.exec(TRUE).returncode:
        raise RuntimeError("true failed in the warm sandbox")


def _in_a_row(peer: Callable[[], None], times: int) -> None:
    for _ in range(times):
        peer()


def output(bench: Bench, count: int) -> Iterator[Result]:
    """1 GiB on standard output, and the growth of this process's memory meanwhile."""
    bare, config = bench.bare("output", _FLOOD)
    bundle = bare.bundle("bundle", config)
    growth: list[float] = []

    def run() -> None:
        before = _reset_peak()
        done = bench.gvisor.run(_FLOOD, timeout=DEADLINE)
        growth.append((_status("VmHWM") - before) / MIB)
        if done.outcome is not Outcome.EXITED or done.stdout_total != GIB:
            raise RuntimeError(f"{done.stdout_total} bytes came of 1 GiB: {done!r}")

    series = interleaved({"ours": run, "peer": lambda: bare.run_into_cat(bundle)}, count, limit=20)
    yield Result(
        row="output", what="1 GiB of output, kept bounded", against="`runsc … \\| cat >/dev/null`",
        figure=Figure.RATIO, **series, target=1.15,
    )  # fmt: skip
    yield Result(
        row="memory", what="the same: growth of this process's peak memory", against="flat",
        figure=Figure.LARGEST, ours=Series(tuple(growth)), target=48.0,
    )  # fmt: skip


def trace(bench: Bench, count: int) -> Iterator[Result]:
    """Traced runs against untraced ones, and the growth of this process's memory meanwhile."""
    growth: list[float] = []

    def run(args: list[str], *, traced: bool) -> None:
        before = _reset_peak()
        done = bench.gvisor.run(args, timeout=DEADLINE, trace=traced)
        if done.returncode or (done.trace is not None) is not traced:
            raise RuntimeError(f"{args[0]} failed, or its trace: {done!r}")
        if done.trace is not None and args is opening:
            growth.append((_status("VmHWM") - before) / MIB)
            if not done.trace.complete:
                raise RuntimeError(f"a trace has a gap: {done.trace!r}")

    opening = ["python3", "-I", "-S", "-c", _OPENING]
    sides = {"ours": True, "peer": False}
    start, opens = (
        {name: functools.partial(run, args, traced=traced) for name, traced in sides.items()}
        for args in (_START, opening)
    )
    yield Result(
        row="trace", what="the start of a Python, `trace=True`", against="the same without",
        figure=Figure.RATIO, **interleaved(start, count, limit=20), target=1.05,
    )  # fmt: skip
    measured = interleaved(opens, 3, limit=60)
    series = {name: one.over(_OPENS // 1000) for name, one in measured.items()}
    yield Result(
        row="trace", what="1,000 opens and closes of 100 files on tmpfs, `trace=True`",
        against="the same without", figure=Figure.DIFFERENCE, **series, target=0.020,
    )  # fmt: skip
    yield Result(
        row="trace", what=f"{_OPENS:,} of these: growth of this process's peak memory",
        against="flat", figure=Figure.LARGEST, ours=Series(tuple(growth)), target=8.0,
    )  # fmt: skip
    with bench.gvisor.sandbox(trace=True) as traced, bench.gvisor.sandbox() as plain:
        warm = {
            name: functools.partial(_in_a_row, functools.partial(_exec, sandbox), IN_A_ROW)
            for name, sandbox in {"ours": traced, "peer": plain}.items()
        }
        measured = interleaved(warm, count, limit=20)
    yield Result(
        row="trace", what=f'`exec(["true"])`, {IN_A_ROW} in a row, in a sandbox with `trace=True`',
        against="the same without", figure=Figure.DIFFERENCE,
        **{name: one.over(IN_A_ROW) for name, one in measured.items()}, target=0.001,
    )  # fmt: skip


def _reset_peak() -> int:
    """Reset the peak of this process's memory (see proc(5)); returns its present size."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        line = next(line for line in file if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def _steps(bench: Bench) -> Iterator[tuple[str, float]]:
    """Run once, and yield each step in order, with the moment of its end."""
    request, record = bench.gvisor.request(TRUE), Record()
    with contextlib.ExitStack() as undo:
        workspace = undo.enter_context(workspace_of(request, bench.launcher, record))
        spec = make_spec(request, workspace, Hooks())
        run = Runner(request, spec, workspace, bench.launcher, record)
        run.start(undo, DEADLINE)
        watch = run.supervisor
        yield "making workspace and bundle", watch.started_at
        while not (watch.pid or watch.over):
            watch.turn(NAP)
        spawned_at = time.monotonic()
        watch.watch()
        watch.drain_events()
        running_at = spawned_at if watch.start is None else watch.started_at + watch.start
        # The sentry can be heard before the keeper.
        yield "request to the keeper, fork, until runsc's execve", min(spawned_at, running_at)
        if watch.start is not None:
            yield "runsc and the sentry, until the container's start", running_at
        removed = []

        def remove() -> None:
            removed.append(time.monotonic())
            run.clean()
            removed.append(time.monotonic())

        run.finish(remove)
        yield "the workload, and runsc's end", removed[0]
        yield "removing what the run made", removed[1]
    yield "the return to the caller", time.monotonic()


def phases(bench: Bench, count: int) -> list[Phase]:
    """The time of each step of a run, and of the parts that a session pays once."""
    begun = time.monotonic()
    bench.run()
    first = time.monotonic() - begun
    spent: dict[str, list[float]] = {}
    for _ in range(count):
        last = begun = time.monotonic()
        for name, at in _steps(bench):
            spent.setdefault(name, []).append(at - last)
            last = at
        spent.setdefault("all of it", []).append(last - begun)
    once = {
        "once: finding, judging and questioning runsc": [bench.finding],
        "once: a session's first run, keeper and root filesystem included": [first],
    }
    return [
        Phase(name=name, seconds=Series(tuple(values)))
        for name, values in {**spent, **once}.items()
        if values
    ]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row to choose: its default number of rounds, and the function that makes its figures."""

    rounds: int
    measure: Callable[[Bench, int], Iterator[Result]]


ROWS: Mapping[str, Row] = {
    "fresh": Row(rounds=100, measure=fresh),
    "docker": Row(rounds=20, measure=in_docker),
    "package": Row(rounds=10, measure=package),
    "images": Row(rounds=20, measure=images.images),
    "exec": Row(rounds=100, measure=warm),
    "idle": Row(rounds=80, measure=sessions.idle),
    "inside": Row(rounds=10, measure=sessions.inside),
    "isolation": Row(rounds=5, measure=sessions.isolation),
    "suites": Row(rounds=2, measure=suites.suites),
    "output": Row(rounds=5, measure=output),
    "trace": Row(rounds=40, measure=trace),
    "full": Row(rounds=3, measure=full.full),
    "grows": Row(rounds=1, measure=full.grows),
    "egress": Row(rounds=5, measure=egress.egress),
}
PHASES = "phases"
PHASE_ROUNDS = 40

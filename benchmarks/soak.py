"""``make soak``: sandboxes for minutes on end, each one's verdict and bytes checked.

Two workers run one sandbox after the other, and twice a minute eight are started at once. Each gets
bytes of its own on standard input, which must come back, and an exit status of its own. Every two
seconds, or a thousand times in a longer soak, the harness is measured: memory, descriptors and
threads of its processes, what lies in the temporary and session folders, processes of sandboxes,
objects of this Python. Over the second half none may grow.

The same is done with what people write by hand, ``subprocess.run(["runsc", …])``, and with the
official gvisor package, if asked for.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_EVERY: Final = 2.0
_SAMPLES: Final = 1000
"""At most about so many, however long it takes: they would be growth themselves."""
_BURST_EVERY: Final = 30.0
_WORKERS: Final = 2
_BURST: Final = 8
_A_MINUTE: Final = 300
"""Sandboxes that ours has to do for each minute asked for; it goes on until it has."""
_SCRIPT: Final = "cat; exit $1"
_DEADLINE: Final = 60.0
_LONGEST_ARGUMENT: Final = 100_000
COUNTED: Final = ("descriptors", "threads", "entries", "sandboxes")
OF_A_RUN: Final = 16
"""At most what a run under way has of each of these. A leak of each sandbox is hundreds of them."""

MEMORY_SLACK: Final = 1.0
"""MiB that memory may differ by between two quarters: an allocator's arenas come and go."""

BLOCKS_A_SANDBOX: Final = 0.5
"""A leak of each sandbox is at least one object. A measurement makes some four, but one measurement
covers a dozen sandboxes."""
BLOCKS_SLACK: Final = 200
"""Blocks that two quarters may differ by for what is under way when they are counted."""

Run = Callable[[int, bytes], tuple[int, bytes]]
"""An exit status and bytes for the workload; the status and the bytes that came back."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """The resources of the harness at one moment."""

    memory: float
    """MiB (proportional set size) of this process and its children that are not runsc."""
    descriptors: int
    threads: int
    entries: int
    """Files and folders in the temporary folder and below the session folders."""
    sandboxes: int
    """Processes that are called runsc or exe (as the sentry and the gofer are)."""
    blocks: int
    """Python's allocations in this process: objects, and their content."""
    done: int
    """Sandboxes until then."""


@dataclasses.dataclass
class Tally:
    """The results of the sandboxes; several threads fill it."""

    done: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)
    samples: list[Sample] = dataclasses.field(default_factory=list)
    guard: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def add(self, problem: str) -> None:
        """Count one sandbox."""
        with self.guard:
            self.done += 1
            if problem:
                self.wrong.append(problem)


def one(run: Run, seed: int) -> str:
    """Run one sandbox; returns the fault in its verdict or bytes, or nothing."""
    chance = random.Random(seed)
    status, data = chance.randrange(256), chance.randbytes(chance.choice((0, 1, 4096, 300_000)))
    try:
        found = run(status, data)
    except Exception as error:  # noqa: BLE001 -- whatever a contender raises is a wrong verdict
        return f"seed {seed}: {type(error).__name__}: {error}"[:300]
    if found[0] != status:
        return f"seed {seed}: status {found[0]} in place of {status}"
    return "" if found[1] == data else f"seed {seed}: {len(found[1])} bytes of {len(data)}"


def soak(run: Run, minutes: float, least: int, folders: Sequence[str], seed: int) -> Tally:
    """Run sandboxes for so long, and until there were so many."""
    tally, ends = Tally(), time.monotonic() + minutes * 60
    numbers = iter(range(seed, seed + 10**9))
    stop = threading.Event()

    def next_seed() -> int:
        with tally.guard:
            return next(numbers)

    def work() -> None:
        while not stop.is_set():
            tally.add(one(run, next_seed()))

    workers = [threading.Thread(target=work) for _ in range(_WORKERS)]
    for worker in workers:
        worker.start()
    burst_at, sample_at = time.monotonic() + _BURST_EVERY / 2, 0.0
    while (now := time.monotonic()) < ends or tally.done < least:
        if now >= burst_at:
            burst_at = now + _BURST_EVERY
            together = [
                threading.Thread(target=lambda: tally.add(one(run, next_seed())))
                for _ in range(_BURST)
            ]
            for thread in together:
                thread.start()
            for thread in together:
                thread.join()
        if now >= sample_at:
            sample_at = now + max(_EVERY, minutes * 60 / _SAMPLES)
            tally.samples.append(measured(folders, tally.done))
        time.sleep(_EVERY)
    stop.set()
    for worker in workers:
        worker.join()
    return tally


def measured(folders: Sequence[str], done: int = 0) -> Sample:
    """Count the resources of this process, of its children, and the entries of its folders."""
    pids, sandboxes = [os.getpid()], 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                comm, _, rest = file.read().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if comm in ("runsc", "exe") or comm.startswith("runsc-"):
            sandboxes += 1
        elif int(rest.split()[1]) == os.getpid() and comm.startswith("python"):
            pids.append(int(name))
    return Sample(
        memory=sum(map(_memory, pids)),
        descriptors=sum(len(_listed(f"/proc/{pid}/fd")) for pid in pids),
        threads=sum(len(_listed(f"/proc/{pid}/task")) for pid in pids),
        entries=sum(_entries(folder) for folder in folders),
        sandboxes=sandboxes,
        blocks=_blocks(),
        done=done,
    )


def _blocks() -> int:
    gc.collect()  # what waits for it is not held
    return sys.getallocatedblocks()


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _memory(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024
    except OSError:
        return 0.0


def _entries(folder: str) -> int:
    return sum(len(names) + len(files) for _, names, files in os.walk(folder))


def growth(samples: Sequence[Sample], field: str) -> float:
    """The last quarter less the third: the second half's slope.

    Of what is counted the least of each quarter, since what is under way only adds to it; of all
    else the median.
    """
    middle = min if field in COUNTED else statistics.median
    values = [float(getattr(sample, field)) for sample in samples]
    quarter = max(len(values) // 4, 1)
    return middle(values[-quarter:]) - middle(values[-2 * quarter : -quarter])


def is_steady(grown: Mapping[str, float]) -> bool:
    """Whether each field's `growth` is explained by noise."""
    blocks = BLOCKS_SLACK + BLOCKS_A_SANDBOX * grown["done"]
    return (
        grown["memory"] <= MEMORY_SLACK
        and grown["blocks"] <= blocks
        and all(grown[name] <= OF_A_RUN for name in COUNTED)
    )


# Contenders


def ours() -> tuple[Run, list[str], Callable[[], None]]:
    """The harness of the ``gvisor`` fixture."""
    from pytest_gvisor import Gvisor, Platform, Runsc  # noqa: PLC0415 -- one contender a process
    from pytest_gvisor.sessions import session_folder  # noqa: PLC0415
    from pytest_gvisor.sessions.launcher import Launcher  # noqa: PLC0415 -- as above

    runsc, launcher = Runsc.find(), Launcher()
    gvisor = Gvisor(runsc=runsc, platform=Platform.SYSTRAP, launcher=launcher)

    def run(status: int, data: bytes) -> tuple[int, bytes]:
        done = gvisor.run(["sh", "-c", _SCRIPT, "sh", str(status)], input=data)
        return done.returncode, done.stdout_bytes

    def close() -> None:
        launcher.close()
        runsc.close()

    return run, [tempfile.gettempdir(), session_folder.base_folder()], close


def by_hand() -> tuple[Run, list[str], Callable[[], None]]:
    """``subprocess.run(["runsc", …, "do", …])``."""

    def run(status: int, data: bytes) -> tuple[int, bytes]:
        argv = ["runsc", "--ignore-cgroups", "--network=none", "do", "sh", "-c", _SCRIPT, "sh"]
        done = subprocess.run(
            [*argv, str(status)], input=data, capture_output=True, timeout=_DEADLINE, check=False
        )
        return done.returncode, done.stdout

    return run, [tempfile.gettempdir(), "/var/run/runsc"], lambda: None


def package() -> tuple[Run, list[str], Callable[[], None]]:
    """The official gvisor package, in an interpreter that has it.

    It has no standard input, and of a command that fails it keeps no output: it gets text as an
    argument, and status 0 alone.
    """
    import gvisor  # type: ignore[import-not-found]  # noqa: PLC0415

    def run(status: int, data: bytes) -> tuple[int, bytes]:
        text = data.hex()[:_LONGEST_ARGUMENT]
        with gvisor.Sandbox() as sandbox:
            found, _ = sandbox.exec("printf", "%s", text, timeout=_DEADLINE)
        return status, data if found == text else found.encode()

    return run, [tempfile.gettempdir()], lambda: None


CONTENDERS = {"ours": ours, "by-hand": by_hand, "package": package}


def main() -> int:
    """Soak, print the figures; 0 where nothing was wrong and nothing grew."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--contender", choices=CONTENDERS, default="ours")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    contender = CONTENDERS[given.contender]
    run, folders, close = contender()
    # The locks of starts at once stay, from their first use on: they are not what is left behind.
    most = _WORKERS + _BURST
    with ThreadPoolExecutor(most) as pool:
        list(pool.map(functools.partial(one, run), range(most)))
    close()
    before = measured(folders)
    run, folders, close = contender()
    begun = time.monotonic()
    least = int(_A_MINUTE * given.minutes) if given.contender == "ours" else 0
    tally = soak(run, given.minutes, least, folders, given.seed)
    spent = time.monotonic() - begun
    close()
    time.sleep(2)
    after = measured(folders)
    grown = {field.name: growth(tally.samples, field.name) for field in dataclasses.fields(Sample)}
    left = {name: getattr(after, name) - getattr(before, name) for name in COUNTED}
    print(f"{given.contender}: seed {given.seed}, {tally.done} sandboxes in {spent:.0f} s")
    print(f"  wrong verdicts or bytes: {len(tally.wrong)}")
    for problem in tally.wrong[:5]:
        print(f"    {problem}")
    for name, value in grown.items():
        print(f"  growth over the second half, {name}: {value:+.2f}")
    told = ", ".join(f"{count} {name}" for name, count in left.items())
    print(f"  left behind 2 s after the end: {told}")
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(
                {"done": tally.done, "wrong": tally.wrong, "grown": grown, "left": left}, file
            )
    return 0 if is_steady(grown) and not tally.wrong and max(left.values()) <= 0 else 1


if __name__ == "__main__":
    sys.exit(main())

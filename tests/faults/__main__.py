"""Every fault many times, and a thousand SIGKILLs: ``make faults``, ``python -m tests.faults``.

Four parts follow, each with a line that says how it ended. The status is 1 if one of them is not as
it has to be:

1. the tests that carry a case, so often as ``--scripted`` and ``--real`` say, with the table; after
   each a census, and a look at a canary tree;
2. floods of 4 GiB of output, and the 99th percentile of a hundred runs beside busy ones;
3. SIGKILL of a pytest that runs workloads, has a warm sandbox, runs tests inside, or runs
   workloads with an allow-list, in turn, ``--kills`` times, at moments that follow from a seed;
4. a census of the machine before and after each. What else uses docker or /tmp is in it too.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.census import census
from tests.faults.kills import WAYS, Round, kill_once, planned, prepare
from tests.faults.little import FILES_AFTER, PROCESSES_AFTER, Little

CHECKOUT = Path(__file__).parents[2]
PLATFORMS = ("systrap", "ptrace")
PATIENCE = 5.0
"""Seconds that what is over may take to go before it counts as left."""
FLOOD_MIB = 4096
NEIGHBOURS = 100


def options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make faults ARGS=…", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--scripted", type=int, default=20, metavar="N", help="times (20)")
    parser.add_argument("--real", type=int, default=3, metavar="N", help="times (3)")
    parser.add_argument("--kills", type=int, default=1000, metavar="N", help="SIGKILLs (1000)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), metavar="N")
    parser.add_argument("--flood", type=int, default=FLOOD_MIB, metavar="MIB", help="(4096)")
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to run (all)"
    )
    parser.add_argument(
        "--only", default="", metavar="EXPR", help="tests to run, as for pytest's -k"
    )
    parser.add_argument("paths", nargs="*", default=["tests"], help="files or folders of tests")
    return parser.parse_args(words)


def say(text: str) -> None:
    """One line, at once."""
    print(f"faults: {text}", flush=True)


def run_pytest(*arguments: str, **variables: str) -> bool:
    """Run the suite's pytest in a process of its own; whether it ended well."""
    kept = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--gvisor-strict",
            "--gvisor-platform", ",".join(PLATFORMS), *arguments,
        ],
        cwd=CHECKOUT,
        env={
            **kept, "TESTS_STRICT_SKIPS": "1",
            "TESTS_STRICT_TIMES": "1", **variables,
        },
    )  # fmt: skip
    return done.returncode == 0


def inject(asked: argparse.Namespace) -> bool:
    """All tests that carry a case, and the table."""
    repeat = f"{asked.scripted},{asked.real}"
    say(f"each case {asked.scripted} times on a scripted runsc or none, {asked.real} on the real")
    only = ["-k", asked.only] if asked.only else []
    table = ["-m", "fault", "--faults", "--faults-watch", "--faults-repeat", repeat]
    return run_pytest(*table, *only, *asked.paths)


def flood(asked: argparse.Namespace) -> bool:
    """Floods and crowds of the size that the cases name, which is too much for the suite."""
    say(f"floods of {asked.flood} MiB, {NEIGHBOURS} runs beside eight busy processes")
    return run_pytest(
        "-rP", "-k", "flood or neighbour",
        "tests/faults/test_output.py", "tests/faults/test_host.py",
        TESTS_FLOOD_MIB=str(asked.flood), TESTS_NEIGHBOURS=str(NEIGHBOURS),
    )  # fmt: skip


def kill(asked: argparse.Namespace) -> bool:
    """One SIGKILL after the other on each platform, each looked at; the bad ones are shown."""
    say(f"{asked.kills} SIGKILLs of pytest, seed {asked.seed}")
    bad: list[Round] = []
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="pgf-", dir="/tmp") as folder:
        littles = [little_for(platform, folder) for platform in PLATFORMS]
        for some in batches(planned(asked.kills, asked.seed), len(littles)):
            with ThreadPoolExecutor(len(littles)) as pool:
                found = list(pool.map(kill_once, littles, some))
            rounds += found
            for little, one in zip(littles, found, strict=False):
                little.end()
                little.started.clear()
                if not one.fine():
                    bad.append(one)
                    say(f"one on {little.platform}, seed {asked.seed}: {one}")
                    shutil.rmtree(little.base, ignore_errors=True)
            if len(rounds) % 50 == 0:
                say(f"{len(rounds)} kills, {len(bad)} left something or took too long")
    for way in WAYS:
        these = [one for one in rounds if one.way == way]
        say(f"{way}: processes {times(these, lambda one: one.processes)} of {PROCESSES_AFTER:g} s")
        say(f"{way}: files {times(these, lambda one: one.files)} of {FILES_AFTER:g} s")
    say(f"{asked.kills} SIGKILLs, {sum(one.began for one in rounds)} of them in a session:"
        f" {len(bad)} left something or took too long")  # fmt: skip
    return not bad


def little_for(platform: str, folder: str) -> Little:
    """The project whose pytests are killed on a platform."""
    made = Little(
        folder=Path(folder) / platform,
        base=f"{folder}/{platform[0]}",
        tag=f"faults{os.getpid()}{platform[0]}",
        platform=platform,
    )
    prepare(made)
    return made


def batches(of: Sequence[tuple[float, str]], size: int) -> Iterator[Sequence[tuple[float, str]]]:
    """Yield batches of this size; the last one may be smaller."""
    for first in range(0, len(of), size):
        yield of[first : first + size]


def times(rounds: Sequence[Round], of: Callable[[Round], float | None]) -> str:
    """Median, 99th percentile and maximum of the rounds' times."""
    found = sorted(time for one in rounds if (time := of(one)) is not None)
    if not found:
        return "never went"
    p99 = found[min(len(found) - 1, int(len(found) * 0.99))]
    return (
        f"gone after {statistics.median(found):.3f} s, p99 {p99:.3f} s, at most {found[-1]:.3f} s"
    )


def left_since(before: frozenset[str]) -> frozenset[str]:
    """Return the new entries of the census that stay for a while."""
    deadline = time.monotonic() + PATIENCE
    while (found := census() - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


PARTS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "faults": inject,
    "floods": flood,
    "kills": kill,
}


def main(words: Sequence[str] | None = None) -> int:
    """Do all parts, and say how each ended."""
    asked = options(words)
    before = census()
    kinds = sorted({line.split(" ")[0] for line in before})
    say(f"census before: {len(before)} entries ({', '.join(kinds)})")
    ended: list[tuple[str, bool]] = []
    for part in asked.parts:
        ended.append((part, PARTS[part](asked)))
        left = left_since(before)
        for line in sorted(left):
            say(f"left: {line}")
        ended.append((f"nothing left by the {part}", not left))
        before |= left
    for name, well in ended:
        say(f"{'well  ' if well else 'NOT SO'} {name}")
    return 0 if all(well for _name, well in ended) else 1


if __name__ == "__main__":
    sys.exit(main())

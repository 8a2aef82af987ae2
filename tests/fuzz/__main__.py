"""``make fuzz``: coverage-guided inputs for each target, by atheris, and their results.

    python -m tests.fuzz [--runs N] [--seed N] [TARGET…]

``--runs`` is for all targets together. With a seed, the inputs are the same each time. Without one,
they begin with those that earlier runs have kept in .build/fuzz/. An input may take a second of a
processor, and 200 MB beyond what the interpreter has. One that takes more, or raises no error of
ours, is a find. A find is kept there too, and becomes a file of tests/fuzz/cases/TARGET/ when it is
mended.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
FINDS: Final = HERE.parents[1] / ".build/fuzz"
_HANGS: Final = 120
"""Seconds of the clock after which an input has hung: other work may keep all processors busy."""

_MEMORY: Final = 200 + 150
"""MiB: what an input may take, and what Python with all of the package takes."""
_LONGEST: Final = 8192
"""The bytes of an input. Longer ones are mutated too slowly; tests of limits cover sizes."""
_DEADLINE: Final = 2400.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fuzzed:
    """One target's process, and the end of it."""

    name: str
    runs: int
    log: Path
    begun: float

    def result(self, status: int) -> tuple[int, str]:
        """The number of inputs, and the find or nothing."""
        text = self.log.read_text(errors="replace")
        found = re.search(r"stat::number_of_executed_units: +(\d+)", text)
        count = int(found[1]) if found else 0
        if status == 0 and count < self.runs:
            return count, f"no more than {count} of {self.runs} inputs"
        return count, "" if status == 0 else text[-3000:]


def options_of(name: str, runs: int, seed: int, inputs: Path) -> list[str]:
    """LibFuzzer's options and folders for a target; ``inputs`` has a folder for those it keeps."""
    corpus, finds = inputs / name, FINDS / "finds" / name
    for folder in (corpus, finds):
        folder.mkdir(parents=True, exist_ok=True)
    seeds = [str(path) for path in (HERE / "seeds" / name, HERE / "cases" / name) if path.is_dir()]
    return [
        f"-runs={runs}", f"-seed={seed}", f"-timeout={_HANGS}", f"-rss_limit_mb={_MEMORY}",
        f"-max_len={_LONGEST}", f"-artifact_prefix={finds}/", f"-dict={HERE}/words.dict",
        "-print_final_stats=1", str(corpus), *seeds,
    ]  # fmt: skip


def fuzz(names: Sequence[str], runs: int, seed: int, *, anew: bool) -> Iterator[tuple[Fuzzed, int]]:
    """Fuzz each target in a process of its own, as many at once as there are processors.

    Yields each one with its exit status, as they end. ``anew`` begins without earlier runs' inputs.
    """
    with contextlib.redirect_stderr(io.StringIO()):  # a line for each module
        from tests.fuzz import one  # seconds, and --help needs none of it

    waiting, living = list(names), dict[int, Fuzzed]()
    with tempfile.TemporaryDirectory() as logs, tempfile.TemporaryDirectory() as inputs:
        kept = Path(inputs) if anew else FINDS / "corpus"
        while waiting or living:
            while waiting and len(living) < (os.cpu_count() or 1):
                name = waiting.pop(0)
                log = Path(logs, name)
                pid = one.start(name, options_of(name, runs, seed, kept), log)
                living[pid] = Fuzzed(name=name, runs=runs, log=log, begun=time.monotonic())
            for pid, fuzzed in list(living.items()):
                if time.monotonic() - fuzzed.begun > _DEADLINE:
                    os.kill(pid, signal.SIGKILL)
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    _, status = os.waitpid(pid, 0)
                    yield living.pop(pid), os.waitstatus_to_exitcode(status)
            time.sleep(0.05)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz all of them; 1 where something was found."""
    # Without the package's modules, which one.py imports under atheris's eyes.
    source = (HERE / "targets.py").read_text()
    names = re.findall(r"^def (\w+)\(data: bytes\) -> None:", source, re.MULTILINE)
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(names))
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, help="default: the time")
    given = parser.parse_args(arguments)
    chosen = given.targets or names
    if unknown := set(chosen) - set(names):
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    seed = int(time.time()) if given.seed is None else given.seed
    print(f"fuzz: seed {seed}, {given.runs} inputs for {len(chosen)} targets", flush=True)
    total, failed = 0, 0
    runs = -(-given.runs // len(chosen))
    for fuzzed, status in fuzz(chosen, runs, seed, anew=given.seed is not None):
        count, find = fuzzed.result(status)
        spent = time.monotonic() - fuzzed.begun
        total += count
        failed += bool(find)
        line = f"  {fuzzed.name:18} {count:7} inputs  {spent:6.1f} s  {find or 'nothing found'}"
        print(line, flush=True)
    print(f"fuzz: {total} inputs, {failed} finds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

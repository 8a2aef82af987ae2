"""``make fuzz``: coverage-guided inputs for each target, by atheris, and their results.

    python -m tests.fuzz [--runs N] [--seed N] [TARGET…]

``--runs`` is for all targets together. An input may take a second and 200 MB beyond what the
interpreter has; one that takes more, or raises what is no error of ours, is a find: it is kept in
.build/fuzz/, and becomes a file of tests/fuzz/cases/TARGET/ when it is mended.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
FINDS: Final = HERE.parents[1] / ".build/fuzz"
_SECONDS: Final = 1
_MEMORY: Final = 200 + 150
"""MiB: what an input may take, and what Python with all of the package takes."""
_LONGEST: Final = 8192
"""The bytes of an input. Longer ones are mutated too slowly; tests of limits cover sizes."""
_DEADLINE: Final = 900.0


def fuzz(name: str, runs: int, seed: int) -> tuple[int, str]:
    """Fuzz one target in a process of its own; the number of inputs, and its find or nothing."""
    corpus, finds = FINDS / "corpus" / name, FINDS / "finds" / name
    for folder in (corpus, finds):
        folder.mkdir(parents=True, exist_ok=True)
    seeds = [str(path) for path in (HERE / "seeds" / name, HERE / "cases" / name) if path.is_dir()]
    options = [
        f"-runs={runs}", f"-seed={seed}", f"-timeout={_SECONDS}", f"-rss_limit_mb={_MEMORY}",
        f"-max_len={_LONGEST}", f"-artifact_prefix={finds}/", f"-dict={HERE}/words.dict",
        "-print_final_stats=1",
    ]  # fmt: skip
    argv = [sys.executable, "-m", "tests.fuzz.one", name, *options, str(corpus), *seeds]
    done = subprocess.run(
        argv, capture_output=True, text=True, errors="replace", check=False, timeout=_DEADLINE
    )
    found = re.search(r"stat::number_of_executed_units: +(\d+)", done.stderr)
    count = int(found[1]) if found else 0
    if done.returncode == 0 and count < runs:
        return count, f"no more than {count} of {runs} inputs"
    return count, "" if done.returncode == 0 else done.stderr[-3000:]


def timed(name: str, runs: int, seed: int) -> tuple[str, int, float, str]:
    """`fuzz`, with the name in front and the seconds that it took in the middle."""
    begun = time.monotonic()
    count, find = fuzz(name, runs, seed)
    return name, count, time.monotonic() - begun, find


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz all of them; 1 where something was found."""
    # Without the package's modules, which one.py imports under atheris's eyes.
    source = (HERE / "targets.py").read_text()
    names = re.findall(r"^def (\w+)\(data: bytes\) -> None:", source, re.MULTILINE)
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(names))
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    given = parser.parse_args(arguments)
    chosen = given.targets or names
    if unknown := set(chosen) - set(names):
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    print(f"fuzz: seed {given.seed}, {given.runs} inputs for {len(chosen)} targets")
    total, failed = 0, 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = -(-given.runs // len(chosen))
        for name, count, spent, find in pool.map(lambda n: timed(n, runs, given.seed), chosen):
            total += count
            failed += bool(find)
            print(f"  {name:18} {count:7} inputs  {spent:6.1f} s  {find or 'nothing found'}")
    print(f"fuzz: {total} inputs, {failed} finds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

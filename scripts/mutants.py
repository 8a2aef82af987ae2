"""Mutants of the modules in tests/mutants.toml: prepare them, and report their results.

    mutants.py prepare SESSIONS PYTHON    a configuration and a session for each module
    mutants.py report SESSIONS            the share that was killed, and survivors.txt

cosmic-ray makes the mutants and runs the tests; a session is its file of them and their results.
"""

from __future__ import annotations

import collections
import json
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
KILLED = "KILLED"


def sessions(folder: Path) -> dict[str, Path]:
    """The session file of each module."""
    modules = tomllib.loads((CHECKOUT / "tests/mutants.toml").read_text())["modules"]
    return {name: folder / f"{name.replace('/', '-')}.sqlite" for name in modules}


def prepare(folder: Path, python: str) -> None:
    """Write the missing sessions. A session of another state of its module is begun anew."""
    wanted = tomllib.loads((CHECKOUT / "tests/mutants.toml").read_text())
    for module, session in sessions(folder).items():
        tests = [python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        tests += wanted["modules"][module]
        text = (
            f"[cosmic-ray]\nmodule-path = {json.dumps(module)}\ntimeout = 120.0\n"
            "excluded-modules = []\n"
            f"test-command = {json.dumps(' '.join(tests))}\n"
            '[cosmic-ray.distributor]\nname = "local"\n'
            "[cosmic-ray.filters.operators-filter]\n"
            f"exclude-operators = {json.dumps(wanted['operators']['excluded'])}\n"
        )
        state = text + (CHECKOUT / module).read_text()
        config, known = session.with_suffix(".toml"), session.with_suffix(".state")
        if session.exists() and known.exists() and known.read_text() == state:
            continue
        session.unlink(missing_ok=True)
        config.write_text(text)
        tool = Path(sys.executable).parent
        for name, *rest in (("cosmic-ray", "init", config, session),
                            ("cr-filter-operators", session, config)):  # fmt: skip
            command = [str(tool / str(name)), *map(str, rest)]
            subprocess.run(command, check=True, cwd=CHECKOUT, stdout=subprocess.DEVNULL)
        known.write_text(state)


def report(folder: Path) -> None:
    """A line a module, and the changes that no test noticed."""
    survivors = []
    total: collections.Counter[str] = collections.Counter()
    for module, session in sessions(folder).items():
        with sqlite3.connect(session) as database:
            number = database.execute("select count(*) from work_items").fetchone()[0]
            results = database.execute(
                "select test_outcome, diff from work_results where worker_outcome != 'SKIPPED'"
            ).fetchall()
            skipped = database.execute(
                "select count(*) from work_results where worker_outcome = 'SKIPPED'"
            ).fetchone()[0]
        killed = sum(outcome == KILLED for outcome, _ in results)
        survivors += [diff for outcome, diff in results if outcome != KILLED]
        total.update(mutants=number - skipped, tried=len(results), killed=killed)
        print(f"{module:40} {number - skipped:5} mutants {len(results):5} tried {killed:5} killed")
    (folder / "survivors.txt").write_text("\n".join(map(str, survivors)))
    share = 100 * total["killed"] / (total["tried"] or 1)
    print(f"killed: {share:.1f} % of {total['tried']} tried; {total['mutants']} in all")


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), sys.argv[3])
    else:
        report(Path(sys.argv[2]))

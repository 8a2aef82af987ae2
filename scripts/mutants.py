"""Mutants of the modules in tests/mutants.toml: prepare them, and report their results.

    mutants.py prepare SESSIONS PYTHON    a configuration and a session for each module
    mutants.py report SESSIONS            the share that was killed, and survivors.txt

cosmic-ray makes the mutants and runs the tests; a session is its file of them and their results.
tests/mutants.toml explains survivors: it has the reason why a changed line does the same as before.
After all mutants were tried, the report fails if a survivor has no reason, or a reason no mutant.
"""

from __future__ import annotations

import ast
import collections
import json
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]
KILLED = "KILLED"


def wanted() -> dict[str, Any]:
    """The content of tests/mutants.toml."""
    return tomllib.loads((CHECKOUT / "tests/mutants.toml").read_text())


def sessions(folder: Path) -> dict[str, Path]:
    """The session file of each module."""
    return {name: folder / f"{name.replace('/', '-')}.sqlite" for name in wanted()["modules"]}


def prepare(folder: Path, python: str) -> None:
    """Write the missing sessions. If a module has changed, its session is begun anew.

    If the tests of a module have changed, its survivors are tried again.
    """
    tool, excluded = Path(sys.executable).parent, wanted()["operators"]["excluded"]
    for config in set(folder.glob("*.toml")) - {
        s.with_suffix(".toml") for s in sessions(folder).values()
    }:
        config.unlink()  # of a module that has another name now
    for module, session in sessions(folder).items():
        tests = wanted()["modules"][module]
        # A test that killed a mutant is likely to kill the next one too.
        root = ["unshare", "--map-root-user"] if module in wanted()["root"]["modules"] else []
        command = [*root, python, "-m", "pytest", "-x", "-q", "--failed-first", *tests]
        config, known = session.with_suffix(".toml"), session.with_suffix(".state")
        config.write_text(
            f"[cosmic-ray]\nmodule-path = {json.dumps(module)}\ntimeout = 60.0\n"
            "excluded-modules = []\n"
            f"test-command = {json.dumps(' '.join(command))}\n"
            '[cosmic-ray.distributor]\nname = "local"\n'
            "[cosmic-ray.filters.operators-filter]\n"
            f"exclude-operators = {json.dumps(excluded)}\n"
        )
        source = (CHECKOUT / module).read_text()
        state = [excluded, source], [(CHECKOUT / name.split("::")[0]).read_text() for name in tests]
        old = json.loads(known.read_text()) if session.exists() and known.exists() else [None, None]
        if old[0] != state[0]:
            session.unlink(missing_ok=True)
            for name, *rest in (("cosmic-ray", "init", config, session),
                                ("cr-filter-operators", session, config)):  # fmt: skip
                run = [str(tool / str(name)), *map(str, rest)]
                subprocess.run(run, check=True, cwd=CHECKOUT, stdout=subprocess.DEVNULL)
            skip_annotations(session, source)
            if (name := wanted()["parts"].get(module)) is not None:
                skip_all_but(session, source, name)
        elif old[1] != state[1]:
            with sqlite3.connect(session) as database:
                database.execute("delete from work_results where test_outcome = 'SURVIVED'")
        known.write_text(json.dumps(state))


def skip_annotations(session: Path, source: str) -> None:
    """Leave out the mutants of annotations: with the future import, Python evaluates none."""
    with sqlite3.connect(session) as database:
        for node in ast.walk(ast.parse(source)):
            for name in ("annotation", "returns"):
                if (at := getattr(node, name, None)) is not None:
                    database.execute(
                        "insert or ignore into work_results (worker_outcome, job_id) "
                        "select 'SKIPPED', job_id from mutation_specs "
                        "where (start_pos_row, start_pos_col) >= (?, ?) "
                        "and (end_pos_row, end_pos_col) <= (?, ?)",
                        (at.lineno, at.col_offset, at.end_lineno, at.end_col_offset),
                    )


def skip_all_but(session: Path, source: str, name: str) -> None:
    """Leave out the mutants outside of one class of a module."""
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    (part,) = (node for node in classes if node.name == name)
    first = min([part.lineno, *(node.lineno for node in part.decorator_list)])
    with sqlite3.connect(session) as database:
        database.execute(
            "insert or ignore into work_results (worker_outcome, job_id) "
            "select 'SKIPPED', job_id from mutation_specs "
            "where start_pos_row < ? or start_pos_row > ?",
            (first, part.end_lineno),
        )


def change(diff: str) -> str:
    """The changed line of a mutant; for a removed line, a minus and that line."""
    lines = diff.splitlines()[3:]
    old, new = ([line[1:] for line in lines if line.startswith(sign)] for sign in "-+")
    return " ".join(new or ["-", *old])


def report(folder: Path) -> int:
    """Print a line for each module, and the survivors without a reason. Returns the exit status."""
    # Compared without blanks, because cosmic-ray writes some of its own.
    reasons = {
        (entry["module"], "".join(line.split()))
        for entry in wanted()["explained"]
        for line in entry["changes"]
    }
    total: collections.Counter[str] = collections.Counter()
    open_ones, known = [], set()
    for module, session in sessions(folder).items():
        with sqlite3.connect(session) as database:
            results = database.execute(
                "select test_outcome, diff from work_items left join work_results using (job_id) "
                # cosmic-ray cannot make mutants of an exception that is a name with dots.
                "where worker_outcome is null or worker_outcome not in ('SKIPPED', 'EXCEPTION')"
            ).fetchall()
        numbers = collections.Counter(outcome for outcome, _ in results)
        killed, tried = numbers[KILLED], len(results) - numbers[None]
        total.update(mutants=len(results), tried=tried, killed=killed)
        print(f"{module:40} {len(results):5} mutants {tried:5} tried {killed:5} killed")
        for outcome, diff in results:
            if outcome is not None:
                key = module, "".join(change(diff).split())
                known.add(key)
                if outcome != KILLED and key not in reasons:
                    open_ones.append(diff)
    (folder / "survivors.txt").write_text("\n".join(open_ones))
    explained = total["tried"] - total["killed"] - len(open_ones)
    share = 100 * total["killed"] / (total["tried"] or 1)
    print(f"killed: {share:.1f} % of {total['tried']} tried; {total['mutants']} in all")
    print(f"explained: {explained}; survivors without a reason: {len(open_ones)}")
    if total["tried"] < total["mutants"]:
        return 0
    unused = [f"no mutant of {module} is {line!r}" for module, line in reasons - known]
    for line in (*open_ones, *unused):
        print(line)
    return 1 if open_ones or unused else 0


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(report(Path(sys.argv[2])))

"""``pytest-gvisor doctor``: a check whether this machine can run tests under gVisor."""

from __future__ import annotations

import dataclasses
import json
import os
import textwrap
from collections.abc import Iterator, Sequence

from pytest_gvisor.base.errors import GvisorError
from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.kernel import named_sandbox
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.cli import health, parsers
from pytest_gvisor.cli.health import Finding, State
from pytest_gvisor.harness.engine import ALREADY_INSIDE, NO_NESTING, Engine
from pytest_gvisor.runsc import sidecars
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.vm.parts import Command

SCHEMA = 1
_PLATFORM = "platform "
_MARKS = {State.GOOD: "ok", State.NOTE: "-", State.BAD: "NO"}


def parser() -> parsers.Parser:
    """The subcommand's options."""
    made = parsers.Parser(
        "doctor",
        description="Checks whether this machine can run tests under gVisor.",
        statuses={"0": "tests can run with the default platform", "1": "tests cannot run here"},
        examples=("pytest-gvisor doctor", "pytest-gvisor doctor --json --runsc /opt/gvisor/runsc"),
    )
    made.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parsers.add_settings(made, "doctor")
    return made


def main(arguments: Sequence[str]) -> int:
    """Examine this machine and print the findings. Raises `UsageError`."""
    given = parser().parse_args(arguments)
    found, able = examine(parsers.settings_of(given, "doctor"))
    if given.json:
        print(json.dumps(document(found, able=able), indent=2))
    else:
        verdict = "Tests can run." if able else "Tests cannot run here: see NO above."
        print("\n".join([*lines(found, parsers.width(100)), "", verdict, *remedies(found)]))
    return 0 if able else 1


def document(found: Sequence[Finding], *, able: bool) -> dict[str, object]:
    """Return the findings for programs."""
    entries = [
        {**dataclasses.asdict(one), "fix": [command._asdict() for command in one.fix]}
        for one in found
    ]
    return {"schema": SCHEMA, "can_run": able, "findings": entries}


def examine(settings: Settings) -> tuple[list[Finding], bool]:
    """Return all findings, and whether tests can run with these settings."""
    left = health.sessions()
    engine = Engine()
    try:
        found, able = _of_runsc(engine, settings)
    finally:
        parsers.end(engine, "doctor")
    works = any(one.state is State.GOOD for one in found if one.name.startswith(_PLATFORM))
    return [*found, *health.findings(works=works), left], able


def _of_runsc(engine: Engine, settings: Settings) -> tuple[list[Finding], bool]:
    if where := named_sandbox(os.uname()):
        detail = f"{ALREADY_INSIDE} {where}, {NO_NESTING}"
        step = "`pytest --in-gvisor` runs tests in place; fixtures with a sandbox need the host."
        return [Finding(name="gVisor", state=State.BAD, detail=detail, next_step=step)], False
    try:
        runsc = engine.runsc(settings.runsc)
    except GvisorError as error:
        return [health.bad("runsc", error)], False
    names = ", ".join(sorted(runsc.platforms))
    told = f"{escape(runsc.version)} at {escape(runsc.path)}, {runsc.origin}, trusted, with {names}"
    found = [health.good("runsc", told), *beside(runsc)]
    if runsc.passed:
        found.append(health.note("wheel", escape(runsc.passed), "Install it as root."))
    default = engine.platforms_of(settings)[0]
    able = False
    for platform in dict.fromkeys([*Platform, *sorted(runsc.platforms)]):
        finding, works = _platform(engine, platform, settings, default)
        found.append(finding)
        able = able or (works and platform is default)
    return found, able


def beside(runsc: Runsc) -> Iterator[Finding]:
    """Report the programs beside runsc; nothing for a release that has none."""
    name, seen = "sidecars", runsc.sidecars
    if seen.has_sentry:
        detail = f"{escape(', '.join(seen.programs))} in {escape(seen.folder)}, trusted"
        yield health.good(name, detail)
    elif runsc.uses_sidecars:
        yield health.note(
            name,
            f"no {sidecars.SENTRY} in {escape(seen.folder)}: this runsc boots the sentry "
            "that it holds itself, and releases after October 2026 hold none",
            "Install runsc together with its sidecars: `pytest-gvisor install`.",
            health.tool("install"),
        )


def _platform(
    engine: Engine, platform: Platform, settings: Settings, default: Platform
) -> tuple[Finding, bool]:
    name = f"{_PLATFORM}{platform}"
    try:
        verdict = engine.availability(platform, settings)
    except GvisorError as error:
        return health.bad(name, error), False
    if verdict.available:
        detail = "works, and is the default" if platform is default else "works"
        return health.good(name, detail), True
    state = State.BAD if platform is default else State.NOTE
    detail = f"{verdict.cause}: {verdict.detail}"
    fix = health.of_kvm(verdict.cause) if platform is Platform.KVM else ()
    if verdict.cause is Cause.BROKEN_BUILD:
        fix = health.tool("install")
    step = verdict.next_step
    return Finding(name=name, state=state, detail=detail, next_step=step, fix=fix), False


def remedies(found: Sequence[Finding]) -> Iterator[str]:
    """Format the commands that mend the findings, each once, below the names of its findings."""
    done: set[Command] = set()
    for finding in found:
        names = [one.name for one in found if one.fix == finding.fix]
        if commands := [one for one in finding.fix if one not in done]:
            if not done:
                yield "\nThese commands mend it:"
            yield escape(f"# {', '.join(names)}")
            yield from map(health.line, commands)
        done.update(commands)


def lines(found: Sequence[Finding], whole: int) -> Iterator[str]:
    """Format the findings as text."""
    for finding in found:
        head = f"{_MARKS[finding.state]:>3} {finding.name:<17} "
        yield from textwrap.wrap(escape(finding.detail), whole, initial_indent=head,
                                 subsequent_indent=" " * 22)  # fmt: skip
        if finding.next_step and finding.state is not State.GOOD:
            step = escape(" ".join(finding.next_step.split()))
            yield from textwrap.wrap(step, whole, initial_indent=" " * 22 + "-> ",
                                     subsequent_indent=" " * 25)  # fmt: skip

"""Reports for the tests of this folder."""

from pytest_gvisor.report.model import Binary, Cell, Column, Leg, Report, Row, Run, State

HOSTILE = (
    '<img src=x onerror="window.hacked=1"><script>window.hacked=2</script></script><!--'
    "<svg onload=window.hacked=3> {{ 7*7 }} \x1b[2J\u202e]]> \" ' & | `` \ud800 \u2028 ::error::x"
)


def cell(platform: str, state: State = State.PASSED, **more: object) -> Cell:
    """A cell with some of everything."""
    given = {"nodeid": f"t.py::test_x[{platform}]", "runsc": "20240729.0", "network": "none",
             "starts_ms": (40.5, 50.0), "duration": 0.25, "cpu_time": 0.5, "peak_memory": 3 << 20,
             "peak_tasks": 30, "command": "python -m pytest x",
             **more}  # fmt: skip
    return Cell(platform=platform, state=state, **given)  # type: ignore[arg-type]


def row(test: str, **states: State) -> Row:
    """A row with these states, by platform."""
    return Row(test=test, cells=tuple(cell(name, state) for name, state in states.items()))


def leg(*platforms: str, version: str = "20240729.0", **more: object) -> Leg:
    """A `Leg` with these platforms."""
    return Leg(
        project="app", date="2026-01-02T03:04:05+00:00", kernel="6.1.0", machine="x86_64",
        python="3.13.0", pytest="9.0.0", plugin="0.1.0",
        runsc=(Binary(version=version, path="/usr/bin/runsc"),),
        platforms=tuple(Column(name=name) for name in platforms), **more,  # type: ignore[arg-type]
    )  # fmt: skip


def report(*rows: Row, **more: object) -> Report:
    """A report with one `Leg`."""
    names = dict.fromkeys(cell.platform for row in rows for cell in row.cells)
    return Report(legs=(leg(*names),), rows=rows, **more)  # type: ignore[arg-type]


def hostile() -> Report:
    """A report in which every text is an attack."""
    run = Run(args=HOSTILE, command=HOSTILE, ended=HOSTILE, stdout=HOSTILE, stderr=HOSTILE,
              config=HOSTILE, log=HOSTILE, trace=HOSTILE)  # fmt: skip
    bad = cell("systrap", State.FAILED, nodeid=HOSTILE, runsc=HOSTILE, network=HOSTILE,
               message=HOSTILE, output=HOSTILE, runs=(run,), command=HOSTILE)  # fmt: skip
    return Report(
        legs=(
            Leg(
                project=HOSTILE, date=HOSTILE, kernel=HOSTILE, machine=HOSTILE, python=HOSTILE,
                pytest=HOSTILE, plugin=HOSTILE, runsc=(Binary(version=HOSTILE, path=HOSTILE),),
                platforms=(Column(name="systrap", cause=HOSTILE), Column(name="ptrace")),
            ),
        ),
        rows=(Row(test=HOSTILE, cells=(bad, cell("ptrace"))),),
        notes=(HOSTILE,),
    )  # fmt: skip

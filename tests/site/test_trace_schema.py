"""docs/trace.schema.json is the form of the traces that ``pytest-gvisor run --trace`` writes."""

import dataclasses
import json
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_gvisor import Outcome, Trace
from pytest_gvisor.base import traced
from pytest_gvisor.base.completed import Completed
from pytest_gvisor.base.settings import Platform
from pytest_gvisor.trace import documents

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/trace.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
PARTS = (
    traced.File, traced.Command, traced.Connection, traced.ListeningSocket, traced.Change,
    traced.TracedProcess,
)  # fmt: skip
BUSY = """
import os, socket, subprocess
print("x" * 5000, *range(30), sep="\\n", flush=True)
open("/tmp/made", "w").close()
os.chmod("/tmp/made", 0o600)
os.close(os.open("/etc", os.O_DIRECTORY))
with socket.socket() as one, socket.socket(socket.AF_INET6) as two, socket.socket(1) as three:
    two.bind(("::1", 4711)); two.listen()
    one.connect_ex(("203.0.113.9", 443)); three.connect_ex("/run/absent")
subprocess.run(["true", "it"], env={"SECRET": "value"})
raise SystemExit(3)
"""


def traced_run(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The file that ``run --trace`` writes for the program, and the output."""
    words = ["run", "--trace", str(folder / "new/trace.json"), *options]
    done = subprocess.run(
        [sys.executable, "-m", "pytest_gvisor", *words, "--", "python3", "-I", "-S", "-c", BUSY],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, "")
    return json.loads((folder / "new/trace.json").read_text()), done.stdout


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_the_schema_has_each_field_of_the_values(part: Any) -> None:
    """Each is written, also at its default."""
    fields = [field.name for field in dataclasses.fields(part)]
    shown = SCHEMA["$defs"][part.__name__.lower()]
    assert [*shown["properties"]] == shown["required"] == fields


def test_the_schema_has_the_fields_of_a_trace_and_the_ends_of_a_run() -> None:
    """Another version of the form, or another end, is one that readers have to know."""
    fields = [field.name for field in dataclasses.fields(Trace)]
    assert [*SCHEMA["properties"]] == SCHEMA["required"]
    assert SCHEMA["required"][-len(fields) :] == fields
    assert SCHEMA["properties"]["schema"] == {"const": documents.SCHEMA}
    assert SCHEMA["properties"]["outcome"] == {"enum": [*Outcome]}


def test_a_trace_that_the_command_writes_is_valid(tmp_path: Path) -> None:
    """A misspelt field is not."""
    trace, _output = traced_run(tmp_path)
    VALIDATOR.validate(trace)
    assert (trace["outcome"], trace["returncode"], trace["complete"]) == ("exited", 3, True)
    assert trace["executed"][1]["argv"] == ["true", "it"]
    (change,) = trace["changes"]
    assert (change["count"], change["paths"], trace["unverified"]) == (1, [], [])
    assert {one["address"] for one in trace["connections"]} == {
        "203.0.113.9:443", "unix:/run/absent",
    }  # fmt: skip
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate({**trace, "filez": []})


def record(**fields: Any) -> dict[str, Any]:
    """The schema of an object that has these fields, and no other one."""
    return {
        "type": "object", "additionalProperties": False, "required": [*fields],
        "properties": fields,
    }  # fmt: skip


def many(items: dict[str, Any]) -> dict[str, Any]:
    """The schema of an array."""
    return {"type": "array", "items": items}


TEXT, TRUTH, NUMBER = ({"type": kind} for kind in ("string", "boolean", "integer"))
SUMMARY = record(
    Status={"enum": ["completed", "error_timeout", "error_analysis", "error_other"]},
    Stdout=TEXT,
    Stderr=TEXT,
    Files=many(record(Path=TEXT, Read=TRUTH, Write=TRUTH, Delete=TRUTH)),
    Sockets=many(record(Address=TEXT, Port=NUMBER, Hostnames=many(TEXT))),
    Commands=many(record(Command=many(TEXT), Environment=many(TEXT))),
    DNS=many(record(Class=TEXT, Queries=many(record(Hostname=TEXT, Types=many(TEXT))))),
)
RESULT = record(
    Package=record(Name=TEXT, Version=TEXT, Ecosystem=TEXT),
    CreatedTimestamp=NUMBER,
    Analysis=record(install=SUMMARY),
)
"""The result structs of package-analysis, as Go writes them to JSON."""


def test_the_form_of_package_analysis_has_its_fields_and_types(tmp_path: Path) -> None:
    """Its files and sockets are one a path and an address, and its streams are bytes in base64."""
    result, output = traced_run(tmp_path, "--format", "package-analysis")
    jsonschema.Draft202012Validator(RESULT).validate(result)
    found = result["Analysis"]["install"]
    assert found["Status"] == "error_analysis"
    assert b64decode(found["Stdout"]).decode() == "".join(output.splitlines(keepends=True)[-20:])
    files = {one["Path"]: one for one in found["Files"]}
    assert [*files] == sorted(files)
    assert files["/tmp/made"] == {
        "Path": "/tmp/made", "Read": False, "Write": True, "Delete": False,
    }  # fmt: skip
    assert files["/etc"]["Read"]
    assert found["Sockets"] == [
        {"Address": "203.0.113.9", "Port": 443, "Hostnames": []},
        {"Address": "::1", "Port": 4711, "Hostnames": []},
    ]
    assert {"Command": ["true", "it"], "Environment": ["SECRET"]} in found["Commands"]


@pytest.mark.parametrize(
    ("status", "outcome", "gaps", "name"),
    [
        (0, Outcome.EXITED, (), "completed"),
        (1, Outcome.EXITED, (), "error_analysis"),
        (-9, Outcome.SIGNALLED, (), "error_analysis"),
        (-15, Outcome.TIMED_OUT, (), "error_timeout"),
        (0, Outcome.EXITED, ("1 events were dropped",), "error_other"),
        (-9, Outcome.OUT_OF_MEMORY, (), "error_other"),
    ],
)
def test_the_status_of_package_analysis(
    status: int, outcome: Outcome, gaps: tuple[str, ...], name: str
) -> None:
    """The form has no field for a gap, so a trace with one is no completed analysis."""
    done = Completed(
        args=("x",), returncode=status, stdout_bytes=b"x" * 5000, stderr_bytes=b"", stdout_total=0,
        stderr_total=0, duration=1.0, platform=Platform.SYSTRAP, outcome=outcome,
    )  # fmt: skip
    result: Any = documents.package_analysis(done, Trace(gaps=gaps))
    assert result["Analysis"]["install"]["Status"] == name
    assert len(b64decode(result["Analysis"]["install"]["Stdout"])) == 4096

"""docs/report.schema.json is the form of the reports that pytest writes."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_gvisor.report import model

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
PARTS = (
    model.Leg, model.Binary, model.Column, model.Starts, model.Row, model.Cell, model.Other,
    model.Run,
)  # fmt: skip
TESTS = """
import pytest


def test_passes(gvisor):
    gvisor.run(["true"])


def test_fails(gvisor):
    assert gvisor.run(["sh", "-c", "echo sorry; exit 3"]).returncode == 0


@pytest.mark.skip(reason="later")
def test_is_skipped(gvisor):
    pass
"""


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_the_schema_has_each_field_of_the_model(part: Any) -> None:
    """A field without a default is required."""
    fields = dataclasses.fields(part)
    shown = SCHEMA["$defs"][part.__name__.lower()]
    assert [*shown["properties"]] == [field.name for field in fields]
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    assert shown.get("required", []) == needed


def test_the_schema_has_the_version_and_the_states_of_the_model() -> None:
    """A new state, or another version, is one that readers have to know."""
    assert SCHEMA["properties"]["schema"] == {"const": model.SCHEMA}
    assert SCHEMA["$defs"]["state"] == {"enum": [*model.State]}


def test_a_report_of_two_platforms_is_valid(tmp_path: Path) -> None:
    """A misspelt field, or an unknown state, is not."""
    (tmp_path / "test_it.py").write_text(TESTS)
    arguments = ["--gvisor-platform=systrap,ptrace", "--gvisor-report=report.json"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["tests"]) == 3, done.stdout
    VALIDATOR.validate(report)
    for changed in ({**report, "legz": []}, {**report, "counts": {"kvm": {"lost": 1}}}):
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate(changed)

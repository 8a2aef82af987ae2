"""The OCI runtime specification's own JSON schema, as an independent validator."""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft4Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

FOLDER = Path(__file__).parents[1] / "fixtures/runtime-spec"


@functools.cache
def _validator() -> Draft4Validator:
    def retrieve(name: str) -> Resource[Any]:
        return Resource.from_contents(json.loads((FOLDER / name).read_text()), DRAFT4)

    top = json.loads((FOLDER / "config-schema.json").read_text())
    return Draft4Validator(top, registry=Registry(retrieve=retrieve))  # type: ignore[call-arg]


def problems_of_file(data: bytes) -> tuple[str, ...]:
    """The schema's errors for the content of a config.json.

    Judging takes milliseconds. The schema asks nothing of an argument, a variable or an absolute
    path but that it is a string. So of files that differ in these alone, one is judged.
    """
    config = json.loads(data)
    process = config.get("process")
    for name in ("args", "env") if isinstance(process, dict) else ():
        if isinstance(process.get(name), list):
            others = [text for text in process[name] if not isinstance(text, str)]
            process[name] = [""] * (len(others) < len(process[name])) + others
    return _judged(_ABSOLUTE.sub('"/"', json.dumps(config)))


_ABSOLUTE = re.compile(r'"/(?:[^"\\]|\\.)*"')


@functools.cache
def _judged(text: str) -> tuple[str, ...]:
    return tuple(problems(json.loads(text)))


def problems(config: Mapping[str, Any]) -> list[str]:
    """The schema's errors for a config.json, each with its path."""
    # The specification says JSON, so tuples and enums are what they become in the file.
    value = json.loads(json.dumps(config))
    return [f"{error.json_path}: {error.message}" for error in _validator().iter_errors(value)]

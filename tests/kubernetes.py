"""Kubernetes' published schema, read as strictly as its API server reads: no unknown field."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

FILE = Path(__file__).parents[1] / "fixtures/kubernetes/schema.json"


@functools.cache
def _validators() -> dict[tuple[str, str], Draft202012Validator]:
    """The validator of each kind of object, by ``apiVersion`` and ``kind``."""
    components = json.loads(FILE.read_text())["components"]
    found = {}
    for name, definition in components["schemas"].items():
        if "properties" in definition:
            definition["additionalProperties"] = False
        for one in definition.get("x-kubernetes-group-version-kind", ()):
            version = f"{one['group']}/{one['version']}".removeprefix("/")
            top = {"$ref": f"#/components/schemas/{name}", "components": components}
            found[version, one["kind"]] = Draft202012Validator(top)
    return found


def objects(manifest: str) -> list[dict[str, Any]]:
    """The objects of a manifest. Raises a `YAMLError`, as for a field that is there twice."""
    return list(YAML(typ="safe", pure=True).load_all(manifest))


def problems(manifest: str) -> Iterator[str]:
    """The schema's errors for a manifest, each with its path."""
    for value in objects(manifest):
        validator = _validators()[value["apiVersion"], value["kind"]]
        for error in validator.iter_errors(value):
            yield f"{value['kind']}: {error.json_path}: {error.message}"

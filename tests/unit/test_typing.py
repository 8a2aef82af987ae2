"""mypy and pyright know the settings of a call: what the documents write, and what nobody may.

One process of each checker looks at all of it, since a start costs several seconds. The pyright is
that of basedpyright. Its wheel brings the program that runs it.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
DOCS = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
PLUGINS = CHECKOUT / ".build/plugins"
DEADLINE = 300

TYPES = {
    "gvisor": "Gvisor", "gvisor_sandbox": "Sandbox", "gvisor_platform": "Platform",
    "gvisor_runsc": "Runsc", "runsc": "Runsc",
}  # fmt: skip
"""The types of the fixtures, for examples that leave them out as tests do."""

HEAD = f"from pytest_gvisor import {', '.join(sorted(set(TYPES.values())))}\n"

GOOD = """\
import asyncio
from pathlib import Path
from pytest_gvisor import (
    Bundle, BundleFactory, Gvisor, ImageFactory, Limits, Mount, Sandbox, SharedSandboxes,
    SharedSnapshots, bind, session,
)

def test_fixtures(
    gvisor: Gvisor, gvisor_sandboxes: SharedSandboxes, gvisor_snapshot: SharedSnapshots,
    gvisor_image: ImageFactory, oci_bundle: BundleFactory,
) -> None:
    box: Sandbox = gvisor_sandboxes("systrap")
    gvisor.sandbox(snapshot=gvisor_snapshot(lambda box: box.put("/a", "b")))
    gvisor.run(rootfs=gvisor_image("a.tar", limits=Limits(max_depth=9)))
    bundle: Bundle = oci_bundle(["true"])
    mounts: list[Mount] = [bind("/a", "/b")]
    gvisor.run(["true"], mounts=mounts)

def test_all(gvisor: Gvisor, bundle: Bundle) -> None:
    gvisor.run(
        ["true"], timeout=10, network="none", netns=None, rootless="auto", image=Path("a.tar"),
        project=True, memory="256M", pids=100, cpus=0.5, shm=1 << 20,
        max_output=1000, debug=False, mounts=[bind("/a", "/b")], user=(1, 2),
    )
    asyncio.run(gvisor.arun(["true"], network="sandbox", memory=1 << 28))
    gvisor.run(("true", Path("a")), mounts={"src": "/app", "data": "/data:rw"})
    gvisor.run_bundle(bundle, pids=100)
    with gvisor.sandbox(cpus=2, network="host") as sandbox:
        sandbox.exec(["true"], timeout=1.5)
    with session(platform=["systrap"], runsc="/usr/bin/runsc", timeout=5) as other:
        other.run(["true"], image=None)
"""

BAD = """\
from pytest_gvisor import Bundle, Gvisor, Limits, session

async def test_all(gvisor: Gvisor, bundle: Bundle) -> None:
    gvisor.run(["true"], netwrok="none")
    gvisor.run(["true"], mount=[])
    gvisor.run(["true"], pids="many")
    gvisor.run(["true"], project="yes")
    gvisor.run("ls")
    await gvisor.arun(["true"], memroy="1G")
    gvisor.run_bundle(bundle, images="a.tar")
    gvisor.sandbox(cpu=1)
    gvisor.run(["true"], mounts=Limits())
    session(timeout="1")
    session(platfrom="kvm")
"""
FIRST_BAD_LINE = 4

# What the checkers call a wrong argument. An example of a document may lack its imports.
MYPY = ("call-arg", "arg-type", "call-overload", "attr-defined")
PYRIGHT = ("reportCallIssue", "reportArgumentType", "reportAttributeAccessIssue")

Finds = Mapping[str, Sequence[tuple[int, str]]]
"""The lines and kinds of what is wrong with each file."""


def typed(block: str) -> str:
    """An example whose functions name the types of fixtures."""
    for name, kind in TYPES.items():
        block = re.sub(rf"(?m)^(\s*def .*[(,] ?){name}(?=[,)])", rf"\1{name}: {kind}", block)
    # mypy looks into functions with annotations alone.
    return re.sub(r"(?m)^(\s*def \w+\(.*[^)]\)):", r"\1 -> None:", block)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples of the documents, the good calls and the bad ones."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("no mypy here: it is in the dependency group lint")
    if not (PLUGINS / "basedpyright").exists():
        pytest.skip("no basedpyright here: it is in the dependency group plugins")
    folder = tmp_path_factory.mktemp("typing")
    for path in DOCS:
        for number, block in enumerate(re.findall(r"(?ms)^```python\n(.*?)^```", path.read_text())):
            if "gvisor" in block:
                (folder / f"doc_{path.stem}_{number}.py").write_text(HEAD + typed(block))
    (folder / "good.py").write_text(GOOD)
    (folder / "bad.py").write_text(BAD)
    return folder


@pytest.fixture(scope="module")
def finds_of_mypy(sources: Path) -> Finds:
    """The errors that mypy finds."""
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--config-file=", "--check-untyped-defs",
            "--follow-imports=silent", "--show-error-codes", f"--cache-dir={sources / 'cache'}",
            "--ignore-missing-imports", "--no-error-summary", *sorted(sources.glob("*.py")),
        ],
        capture_output=True, text=True, timeout=DEADLINE, cwd=CHECKOUT,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, list[tuple[int, str]]] = {}
    for name, line, kind in re.findall(
        r"(?m)^\S*?(\w+\.py):(\d+): error: .*\[([\w-]+)\]$", done.stdout
    ):
        found.setdefault(name, []).append((int(line), kind))
    return found


@pytest.fixture(scope="module")
def finds_of_pyright(sources: Path) -> Finds:
    """The errors that pyright finds."""
    (sources / "pyrightconfig.json").write_text(
        json.dumps({"extraPaths": [str(CHECKOUT)], "typeCheckingMode": "standard"})
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "basedpyright", "--outputjson", f"--project={sources}",
            f"--pythonpath={sys.executable}",
        ],
        env={**os.environ, "PYTHONPATH": str(PLUGINS)},
        capture_output=True, text=True, timeout=DEADLINE, cwd=sources,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, list[tuple[int, str]]] = {}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        if one["severity"] == "error":
            line = one["range"]["start"]["line"] + 1
            found.setdefault(Path(one["file"]).name, []).append((line, one.get("rule", "")))
    return found


CHECKERS = [("finds_of_mypy", MYPY), ("finds_of_pyright", PYRIGHT)]


@pytest.mark.parametrize(("finds", "kinds"), CHECKERS, ids=["mypy", "pyright"])
def test_a_type_checker_knows_the_settings_of_calls(
    request: pytest.FixtureRequest, sources: Path, finds: str, kinds: Sequence[str]
) -> None:
    """Each checker accepts all settings and the documents' examples, and refuses the bad lines."""
    found: Finds = request.getfixturevalue(finds)
    assert "good.py" not in found
    bad = range(FIRST_BAD_LINE, len(BAD.splitlines()) + 1)
    assert {line for line, kind in found["bad.py"] if kind in kinds} == set(bad)
    examples = sorted(path.name for path in sources.glob("doc_*.py"))
    assert len(examples) > 10
    refused = {
        name: [(line, kind) for line, kind in found.get(name, ()) if kind in kinds]
        for name in examples
    }
    assert {name: lines for name, lines in refused.items() if lines} == {}

"""``scripts/wheel.py``: the packing of a build of runsc, without Go."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/wheel.py"
GVISOR = "v0.0.0-20260905035102-160fafc42237"


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A folder as ``scripts/go-runsc`` leaves it, of two modules and Go."""
    texts = {"go": ["LICENSE", "PATENTS"], "gvisor": ["LICENSE"], "other": ["COPYING.md", "notice"]}
    for module, names in texts.items():
        (tmp_path / module).mkdir()
        for name in ("licenses.go", *names):
            (tmp_path / module / name).write_text(f"{module} {name}")
    folder = tmp_path / "build"
    folder.mkdir()
    (folder / "runsc").write_bytes(b"\x7fELF" * 1000)
    records = [
        {"GOROOT": f"{tmp_path}/go", "GOVERSION": "go1.26.8"},
        {"Path": "gvisor.dev/gvisor", "Version": GVISOR, "Dir": f"{tmp_path}/gvisor"},
        {"Path": "example.com/other/v2", "Version": "v2.1.0", "Dir": f"{tmp_path}/other"},
    ]
    (folder / "modules.json").write_text("\n".join(json.dumps(one, indent=1) for one in records))
    return folder


def pack(build: Path, to: str = "dist", architecture: str = "amd64", umask: int = 0o022) -> Path:
    """Run the script; the path of the wheel that it names."""
    done = subprocess.run(
        [sys.executable, SCRIPT, build, architecture, build.parent / to],
        stdout=subprocess.PIPE, text=True, check=True, umask=umask,
    )  # fmt: skip
    path, digest = done.stdout.split("\n  sha256 ")
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == digest.strip()
    return Path(path)


def test_a_wheel_has_the_same_bytes_in_each_folder_and_at_each_time(build: Path) -> None:
    """Neither the umask, nor times, nor the order of files count."""
    first = pack(build)
    os.utime(build / "runsc", (0, 0))
    (build.parent / "other/notice").touch()
    second = pack(build.rename(build.parent / "moved"), to="elsewhere", umask=0o077)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("architecture", "machine", "started"),
    [
        ("amd64", "x86_64", "The tests of pytest-gvisor run with this file."),
        ("arm64", "aarch64", "**nobody has ever started it**"),
    ],
)
def test_the_metadata_says_what_is_in_it(
    architecture: str, machine: str, started: str, build: Path
) -> None:
    """Tags, the unofficial build, its Go, and each licence text, which lies where it is named."""
    path = pack(build, architecture=architecture)
    tags = [f"{name}_{machine}" for name in ("manylinux_2_17", "manylinux2014", "musllinux_1_1")]
    assert path.name == f"pytest_gvisor_runsc-20260905.0-py3-none-{'.'.join(tags)}.whl"
    info = "pytest_gvisor_runsc-20260905.0.dist-info"
    with zipfile.ZipFile(path) as archive:
        texts = {name: archive.read(name).decode("latin-1") for name in archive.namelist()}
    assert [line[5:] for line in texts[f"{info}/WHEEL"].splitlines() if line[:4] == "Tag:"] == [
        f"py3-none-{tag}" for tag in tags
    ]
    metadata = texts[f"{info}/METADATA"]
    for words in ("An unofficial build of", f"dev) 20260905 for {machine}", "Go 1.26.8", started):
        assert words in metadata
    assert not re.search(r"@[A-Z]+@", metadata)
    named = [line[14:] for line in metadata.splitlines() if line.startswith("License-File: ")]
    assert named == [
        "example.com/other/v2@v2.1.0/COPYING.md", "example.com/other/v2@v2.1.0/notice",
        "go@1.26.8/LICENSE", "go@1.26.8/PATENTS", f"gvisor.dev/gvisor@{GVISOR}/LICENSE",
    ]  # fmt: skip
    assert texts[f"{info}/licenses/go@1.26.8/PATENTS"] == "go PATENTS"
    assert {name for name in texts if "/licenses/" in name} == {
        f"{info}/licenses/{name}" for name in named
    }
    assert (
        'VERSION: str = "20260905-module-160fafc42237"' in texts["pytest_gvisor_runsc/__init__.py"]
    )


def test_a_module_without_a_licence_text_makes_no_wheel(build: Path) -> None:
    """The error names the module; nothing is written."""
    (build.parent / "gvisor/LICENSE").unlink()
    done = subprocess.run(
        [sys.executable, SCRIPT, build, "amd64", build.parent / "dist"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"no licence of gvisor.dev/gvisor in {build.parent}/gvisor" in done.stderr
    assert not (build.parent / "dist").exists()

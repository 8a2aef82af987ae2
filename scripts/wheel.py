"""Pack a build of runsc into a wheel: python scripts/wheel.py FOLDER ARCHITECTURE DIST.

FOLDER is one that ``scripts/go-runsc`` made for this ARCHITECTURE, in Go's name. The wheel's bytes
depend on the build and on ``packaging/runsc`` alone: entries are sorted, and have one time. Prints
the wheel's path and SHA-256. Standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

DISTRIBUTION = "pytest_gvisor_runsc"
REVISION = 0
"""Counts the wheels of one gVisor."""

SOURCES = Path(__file__).parents[1] / "packaging/runsc"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
PLATFORMS = ("manylinux_2_17", "manylinux2014", "musllinux_1_1")
"""The file is static: it needs a kernel, and no C library."""

STARTED = {
    "amd64": "The tests of pytest-gvisor run with this file.",
    "arm64": "This file was built on another machine, and **nobody has ever started it**.",
}
LICENCES = "Apache-2.0 AND BSD-2-Clause AND BSD-3-Clause AND MIT"
_LICENCE = re.compile(r"(?i)(licen[cs]e|copying|notice|patents)\b")
_MODULE = "gvisor.dev/gvisor"


def modules(text: str) -> tuple[str, dict[str, dict[str, str]]]:
    """Return the version of Go, and the modules of a build by their names, from modules.json."""
    decoder, found, at = json.JSONDecoder(), list[dict[str, str]](), 0
    while at < len(text):
        value, end = decoder.raw_decode(text, at)
        found.append(value)
        at = end + len(text[end:]) - len(text[end:].lstrip())
    go, *others = found
    standard = {"Path": "go", "Version": go["GOVERSION"].removeprefix("go"), "Dir": go["GOROOT"]}
    return standard["Version"], {one["Path"]: one for one in (standard, *others)}


def licences(found: dict[str, dict[str, str]]) -> Iterator[tuple[str, bytes]]:
    """Yield the licence texts of each module; exits with an error for a module without one."""
    for name, module in sorted(found.items()):
        folder = Path(module["Dir"])
        files = sorted(path for path in folder.glob("*") if _LICENCE.match(path.name))
        if not files:
            sys.exit(f"wheel: no licence of {name} in {folder}: remove .build/wheel, and try again")
        for path in files:
            yield f"{name}@{module['Version']}/{path.name}", path.read_bytes()


def content(folder: Path, architecture: str) -> tuple[str, dict[str, bytes]]:
    """Return the wheel's name, and its files but RECORD."""
    go, found = modules((folder / "modules.json").read_text())
    build = re.fullmatch(r".*-(\d{8})\d{6}-([0-9a-f]{12})", found[_MODULE]["Version"])
    if build is None:
        sys.exit(f"wheel: no date in the version {found[_MODULE]['Version']}")
    words = {
        "VERSION": f"{build[1]}.{REVISION}",
        "RELEASE": build[1],
        "LABEL": f"{build[1]}-module-{build[2]}",
        "MODULE": f"{_MODULE}@{found[_MODULE]['Version']}",
        "GO": go,
        "MACHINE": MACHINES[architecture],
        "STARTED": STARTED[architecture],
    }

    def filled(name: str) -> str:
        text = (SOURCES / name).read_text()
        return re.sub(r"@([A-Z]+)@", lambda match: words[match[1]], text)

    texts = dict(licences(found))
    tags = [f"{platform}_{MACHINES[architecture]}" for platform in PLATFORMS]
    info = f"{DISTRIBUTION}-{words['VERSION']}.dist-info"
    metadata = [
        "Metadata-Version: 2.4",
        f"Name: {DISTRIBUTION.replace('_', '-')}",
        f"Version: {words['VERSION']}",
        f"Summary: Unofficial build of runsc, of gVisor {words['RELEASE']}, for pytest-gvisor",
        "Requires-Python: >=3.11",
        f"License-Expression: {LICENCES}",
        *(f"License-File: {name}" for name in texts),
        "Description-Content-Type: text/markdown",
        "",
        filled("README.md"),
    ]
    # pure: into the folder that pytest-gvisor itself goes to, where a system has two.
    wheel = ["Wheel-Version: 1.0", "Generator: pytest-gvisor", "Root-Is-Purelib: true"]
    wheel += [f"Tag: py3-none-{tag}" for tag in tags]
    files = {
        f"{DISTRIBUTION}/__init__.py": filled(f"{DISTRIBUTION}/__init__.py").encode(),
        f"{DISTRIBUTION}/py.typed": b"",
        f"{DISTRIBUTION}/bin/gvisor_sentry": (folder / "runsc").read_bytes(),
        f"{info}/METADATA": "\n".join(metadata).encode(),
        f"{info}/WHEEL": ("\n".join(wheel) + "\n").encode(),
        **{f"{info}/licenses/{name}": text for name, text in texts.items()},
    }
    return f"{DISTRIBUTION}-{words['VERSION']}-py3-none-{'.'.join(tags)}.whl", files


def record(files: dict[str, bytes]) -> tuple[str, bytes]:
    """Return the name and content of RECORD, in which each file has its hash."""
    (name,) = (path for path in files if path.endswith("/WHEEL"))
    name = name.replace("WHEEL", "RECORD")
    lines = []
    for path, data in sorted(files.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(data)}\n")
    return name, "".join([*lines, f"{name},,\n"]).encode()


def pack(path: Path, files: dict[str, bytes]) -> None:
    """Write the wheel, its dist-info last."""
    everything = dict([*files.items(), record(files)])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(everything, key=lambda name: (".dist-info/" in name, name)):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if "/bin/" in name else 0o100644) << 16
            archive.writestr(entry, everything[name])


def main(folder: str, architecture: str, dist: str) -> None:
    """Pack one build."""
    name, files = content(Path(folder), architecture)
    Path(dist).mkdir(exist_ok=True)
    path = Path(dist, name)
    pack(path, files)
    print(f"{path}\n  sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(*sys.argv[1:])

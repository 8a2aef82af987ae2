"""``scripts/go-runsc``, which set-up uses: a scripted Go, and the real one's checksum database."""

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/go-runsc"
VERSION = "v0.0.0-20260905035102-160fafc42237"
MODULE = "gvisor.dev/gvisor"
PROXY = "https://proxy.golang.org,direct"
MADE = "mkdir -p $GOPATH/bin; echo built > $GOPATH/bin/runsc"
LOOSE = {
    "GOSUMDB": "off", "GONOSUMDB": "*", "GOPRIVATE": "*", "GOINSECURE": "*",
    "GOFLAGS": "-modcacherw", "CGO_ENABLED": "1",
}  # fmt: skip


def build(to: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Call the script, with a caller's variables that ask for no check."""
    return subprocess.run(
        [SCRIPT, VERSION, to, *more],
        env={**os.environ, **LOOSE, **variables},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def scripted(folder: Path, install: str, version: str = "go1.99.0") -> str:
    """A PATH with a Go that answers ``go env``, and does this for ``go install``."""
    path = folder / "go"
    path.write_text(
        f"""#!/bin/sh
        if [ "$1 $2" = "env GOVERSION" ]; then echo {version}; exit; fi
        if [ "$1" = env ]; then echo https://proxy.example; exit; fi
        if [ "$1" = version ]; then printf '\\tdep\\texample.com/a\\tv1.0.0\\th1:x\\n'; exit; fi
        if [ "$1" = mod ]; then echo "$@"; exit; fi
        env > {folder}/seen; echo "$@" >> {folder}/seen
        {install}
        """
    )
    path.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_a_build_has_a_name_and_its_sentry_beside_it(tmp_path: Path) -> None:
    """Go builds without cgo, with all checks; the modes do not depend on the umask."""
    install = f"umask 077; {MADE}; chmod 700 $GOPATH/bin/runsc"
    done = build(tmp_path / "to", PATH=scripted(tmp_path, install))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    files = [tmp_path / "to" / name for name in ("runsc", "gvisor-bin/gvisor_sentry")]
    assert [file.read_text() for file in files] == ["built\n"] * 2
    assert {file.stat().st_mode & 0o777 for file in [*files, tmp_path / "to"]} == {0o755}
    assert sorted(os.listdir(tmp_path)) == ["go", "seen", "to"]
    seen = (tmp_path / "seen").read_text().splitlines()
    assert seen[-1].split() == [
        "install", "-v", "-trimpath", "-ldflags", "-s", "-w", "-buildid=", "-X",
        f"{MODULE}/runsc/version.version=20260905-module-160fafc42237", f"{MODULE}/runsc@{VERSION}",
    ]  # fmt: skip
    assert {
        "CGO_ENABLED=0", "GOENV=off", "GOSUMDB=sum.golang.org", "GONOSUMDB=none", "GOPRIVATE=none",
        "GOINSECURE=none", "GOFLAGS=-buildvcs=false", "GOPROXY=https://proxy.example",
        "GOAMD64=v1", "GOTOOLCHAIN=local", "GOBIN=",
    } <= set(seen)  # fmt: skip


def test_a_wheel_has_a_go_of_one_version_and_the_names_of_its_modules(tmp_path: Path) -> None:
    """Go puts what it builds for another machine into a folder of that name."""
    made = MADE.replace("/bin", "/bin/linux_arm64")
    done = build(tmp_path / "to", "arm64", "1.26.8", PATH=scripted(tmp_path, made))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    seen = (tmp_path / "seen").read_text().splitlines()
    assert {"GOARCH=arm64", "GOTOOLCHAIN=go1.26.8", "GOSUMDB=sum.golang.org"} <= set(seen)
    assert (tmp_path / "to/runsc").read_text() == "built\n"
    modules = (tmp_path / "to/modules.json").read_text().splitlines()
    assert modules[-1] == "mod download -json example.com/a@v1.0.0"


def test_a_long_build_says_every_ten_seconds_that_it_goes_on(tmp_path: Path) -> None:
    """A failed one leaves nothing, and the script prints the end of Go's output."""
    slept = tmp_path / "slept"  # a line for each second that the script has waited, once Go builds
    (tmp_path / "sleep").write_text(
        f"#!/bin/sh\nuntil [ -e {slept} ]; do :; done; echo >> {slept}\n"
    )
    (tmp_path / "sleep").chmod(0o755)
    install = f"echo internal/one >&2; : > {slept}; until [ $(wc -l < {slept}) -ge 11 ]; do :; done"
    install += "; echo 'no disk' >&2; exit 1"
    done = build(tmp_path / "to", PATH=scripted(tmp_path, install))
    assert done.returncode == 1
    assert done.stdout == f"go could not build {MODULE}@{VERSION}: internal/one no disk\n"
    assert done.stderr.startswith("go-runsc: building runsc with Go: 10 s, 1 packages\n")
    assert sorted(os.listdir(tmp_path)) == ["go", "seen", "sleep", "slept"]


def test_a_module_that_is_not_what_the_database_says_is_refused(tmp_path: Path) -> None:
    """A proxy that serves another gVisor than everybody has, and a caller who wants no check."""
    versions = tmp_path / "proxy" / MODULE / "@v"
    versions.mkdir(parents=True)
    info = {"Version": VERSION, "Time": "2026-09-05T03:51:02Z"}
    (versions / f"{VERSION}.info").write_text(json.dumps(info))
    mod = f"module {MODULE}\n\ngo 1.26.3\n"
    (versions / f"{VERSION}.mod").write_text(mod)
    with zipfile.ZipFile(versions / f"{VERSION}.zip", "w") as module:
        module.writestr(f"{MODULE}@{VERSION}/go.mod", mod)
        module.writestr(f"{MODULE}@{VERSION}/runsc/main.go", "package main\n\nfunc main() {}\n")
    done = build(
        tmp_path / "to",
        # The database is asked through the first proxy that passes it on.
        GOPROXY=f"file://{tmp_path}/proxy,{os.environ.get('GOPROXY', PROXY)}",
        GOMODCACHE=str(tmp_path / "modules"),
    )
    assert done.returncode == 1
    if done.stdout.startswith("there is no Go"):
        pytest.skip("no Go that builds gVisor: Go 1.26.3 or later is needed")
    assert "checksum mismatch" in done.stdout
    assert os.listdir(tmp_path / "modules" / "cache") != []
    assert not (tmp_path / "to").exists()

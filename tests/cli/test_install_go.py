"""``pytest-gvisor install --from go``: the real Go and module; a scripted Go for the faults."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.cli import install
from pytest_gvisor.errors import InstallFailed, InstallTimeout, UsageError
from pytest_gvisor.install import gomodule, place, toolchain
from pytest_gvisor.programs import proc
from pytest_gvisor.runsc import features, locate
from tests.runsc.conftest import wait_for

NEWER = "go1.99.0"
OK = 'mkdir -p "$GOBIN" && cp "$REAL" "$GOBIN/runsc" && chmod 0700 "$GOBIN/runsc"'
# Each says its own number as the test sees it: root's builds are in a PID namespace of their own.
HANGS = """
echo internal/one >&2
sh -c 'read pid rest < /proc/self/stat; echo $pid >> {pids}; exec sleep 500' &
read pid rest < /proc/self/stat; echo $pid >> {pids}
sleep 500
"""


class FakeGo:
    """A scripted ``go`` in a folder of its own, and the environment in which it is found first."""

    def __init__(self, folder: Path, script: str, version: str = NEWER) -> None:
        folder.mkdir()
        self.folder = folder
        self.seen = folder / "seen"
        self.pids = folder / "pids"
        runsc = locate.find()
        runsc.close()
        # go's cache is judged as root, in which case it must be there only as far as it exists.
        answer = {"GOVERSION": version, "GOCACHE": f"{folder}/cache", "GOMODCACHE": f"{folder}/mod"}
        (folder / "answer").write_text(json.dumps({**answer, "GOROOT": "", "GOTOOLDIR": ""}))
        path = folder / "go"
        path.write_text(
            f"#!/bin/sh\nset -e\nREAL={shlex.quote(runsc.path)}\n"
            f'if [ "$1" = env ]; then cat {folder}/answer; exit; fi\n'
            f'env > {self.seen}; echo "$@" >> {self.seen}\n' + script.format(pids=self.pids) + "\n"
        )
        path.chmod(0o755)
        self.environ = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(folder)}

    def install(self, to: Path, **options: Any) -> place.Installed:
        """Install with it, in this process."""
        given = {"timeout": 60.0, "environ": self.environ, **options}
        return gomodule.install(gomodule.TESTED, str(to), lambda _: None, **given)

    def tool(self, to: Path, *more: str, **options: Any) -> subprocess.Popen[bytes]:
        """The command line tool with it, started."""
        command = [sys.executable, "-m", "pytest_gvisor", "install", "--from", "go", "--to"]
        return subprocess.Popen(
            [*command, str(to), *more],
            **{
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "env": {**os.environ, **self.environ},
                **options,
            },
        )


def alive(pids: Path) -> list[int]:
    """The processes that still run, of those whose pids are in a file."""
    written = [int(pid) for pid in pids.read_text().split()] if pids.exists() else []
    return [pid for pid in written if (stat := proc.stat_of(pid)) and stat.state != "Z"]


@pytest.fixture
def to(tmp_path: Path) -> Path:
    """A folder to install into."""
    made = tmp_path / "bin"
    made.mkdir(mode=0o755)
    return made


@pytest.fixture(scope="module")
def go() -> toolchain.Toolchain:
    """The Go of this machine: the distributions of today have none that is new enough."""
    try:
        return toolchain.find(gomodule.GO_NEEDED)
    except InstallFailed as error:
        pytest.skip(f"no Go that builds gVisor: {error.message}")


def test_a_build_of_the_module_runs_workloads(go: toolchain.Toolchain, to: Path) -> None:
    """The real module and the real Go: runsc with its own sentry beside it, named for its date."""
    command = [sys.executable, "-m", "pytest_gvisor", "install", "--from", "go", "--to", str(to)]
    done = subprocess.run(command, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    real = (to / "runsc").resolve()
    home = real.parent
    assert sorted(os.listdir(to)) == sorted([home.name, "runsc"])
    assert sorted(os.listdir(home)) == ["gvisor-bin", "runsc"]
    assert (home / "gvisor-bin" / "gvisor_sentry").read_bytes() == real.read_bytes()
    version = gomodule.label(gomodule.TESTED)
    assert f"runsc {version} is at {to}/runsc".encode() in done.stdout
    assert not [path for path in home.rglob("*") if path.stat().st_mode & 0o7777 != 0o755]
    run = [sys.executable, "-m", "pytest_gvisor", "run", "--runsc", str(to / "runsc"), "--"]
    ran = subprocess.run([*run, "echo", "built"], capture_output=True, timeout=120)
    assert (ran.returncode, ran.stdout) == (0, b"built\n"), ran.stderr


def test_nothing_switches_the_checksum_database_off(
    go: toolchain.Toolchain, tmp_path: Path
) -> None:
    """Neither the caller's variables nor ``go env -w`` disable it; the caller's proxy holds."""
    settings = tmp_path / ".config" / "go" / "env"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        "GOPROXY=https://proxy.example\nGOSUMDB=off\nGONOSUMDB=*\nGOFLAGS=-mod=mod\n"
        "GOPRIVATE=*\nGOINSECURE=*\nGOTOOLCHAIN=auto\n"
    )
    loose = dict.fromkeys(("GONOSUMDB", "GONOSUMCHECK", "GOPRIVATE", "GONOPROXY"), "*")
    loose |= {"GOSUMDB": "off", "GOFLAGS": "-insecure", "GOINSECURE": "*", "GOTOOLCHAIN": "auto"}
    environ = {**loose, "HOME": str(tmp_path), "PATH": os.path.dirname(go.path)}
    found = toolchain.find(gomodule.GO_NEEDED, environ=environ)
    names = ["GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GONOPROXY", "GOINSECURE", "GOFLAGS", "GOPROXY"]
    asked = [found.path, "env", *names, "GOTOOLCHAIN"]
    told = subprocess.run(asked, env=dict(found.env), capture_output=True, text=True, timeout=30)
    assert told.stdout.split() == [
        "sum.golang.org", "none", "none", "none", "none", "-buildvcs=false",
        "https://proxy.example", "local",
    ]  # fmt: skip
    assert not {"GONOSUMCHECK"} & set(found.env)


def test_a_module_that_is_not_what_the_database_says_is_refused(
    go: toolchain.Toolchain, to: Path, tmp_path: Path
) -> None:
    """A proxy that serves another gVisor than everybody has, and a caller who asks for no check."""
    versions = tmp_path / "proxy" / gomodule.MODULE / "@v"
    versions.mkdir(parents=True)
    info = {"Version": gomodule.TESTED, "Time": "2026-09-05T03:51:02Z"}
    (versions / f"{gomodule.TESTED}.info").write_text(json.dumps(info))
    mod = f"module {gomodule.MODULE}\n\ngo 1.26.3\n"
    (versions / f"{gomodule.TESTED}.mod").write_text(mod)
    with zipfile.ZipFile(versions / f"{gomodule.TESTED}.zip", "w") as module:
        top = f"{gomodule.MODULE}@{gomodule.TESTED}"
        module.writestr(f"{top}/go.mod", mod)
        module.writestr(f"{top}/runsc/main.go", "package main\n\nfunc main() {}\n")
    environ = {
        **os.environ,
        # The database is asked through the first proxy that passes it on.
        "GOPROXY": f"file://{tmp_path}/proxy,{go.env['GOPROXY']}",
        "GOMODCACHE": str(tmp_path / "modules"),
        "GOSUMDB": "off",
        "GONOSUMDB": "*",
        "GOFLAGS": "-modcacherw",
    }
    with pytest.raises(InstallFailed, match="checksum mismatch"):
        gomodule.install(gomodule.TESTED, str(to), lambda _: None, timeout=120.0, environ=environ)
    assert os.listdir(to) == []


def test_what_go_is_given(tmp_path: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go gets a short list of variables, no cgo, the label and the module's own version."""
    fake = FakeGo(tmp_path / "go", OK)
    fake.environ |= {"CC": "evil", "GOFLAGS": "-toolexec=evil", "LD_PRELOAD": "", "GOROOT": "/x"}
    fake.environ |= {"https_proxy": "http://192.0.2.1:3128", "SSL_CERT_FILE": "/certs"}
    fake.install(to)
    text = fake.seen.read_text()
    names = {line.partition("=")[0] for line in text.splitlines()[:-1]}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} <= {
        "PATH", "HOME", "LC_ALL", "https_proxy", "SSL_CERT_FILE", "GOCACHE", "GOMODCACHE", "GOBIN",
        "TMPDIR", "CGO_ENABLED", "GOENV", "GOFLAGS", "GOINSECURE", "GONOPROXY", "GONOSUMDB",
        "GOPRIVATE", "GOSUMDB", "GOTOOLCHAIN", "GOWORK",
    }  # fmt: skip
    assert "CGO_ENABLED=0\n" in text
    assert "https_proxy=http://192.0.2.1:3128\n" in text
    assert text.endswith(
        "install -v -ldflags -X gvisor.dev/gvisor/runsc/version.version="
        "20260905-module-160fafc42237 "
        "gvisor.dev/gvisor/runsc@v0.0.0-20260905035102-160fafc42237\n"
    )


def test_the_modes_are_not_the_umask_s(tmp_path: Path, to: Path) -> None:
    """Every user can run a runsc that root installed under umask 077."""
    fake = FakeGo(tmp_path / "go", OK)
    with fake.tool(to, umask=0o077) as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    home = (to / "runsc").resolve().parent
    assert not [path for path in home.rglob("*") if path.stat().st_mode & 0o7777 != 0o755]
    assert home.stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("printf 'no \\033[31m network\\n' >&2; exit 1", r"status 1\)\n  no \\x1b\[31m network"),
        ("exit 0", "has built .* and made no runsc"),
        ('mkdir -p "$GOBIN"; ln -s /bin/true "$GOBIN/runsc"', "made no runsc"),
        ('mkdir -p "$GOBIN"; echo "#!/bin/sh" > "$GOBIN/runsc"', "the new runsc cannot be used"),
        ('mkdir -p "$GOBIN"; cp /bin/true "$GOBIN/runsc"', "the new runsc cannot be used"),
    ],
    ids=["fails", "nothing", "link", "script", "other"],
)  # fmt: skip
def test_a_build_that_fails_is_said_and_not_left(
    script: str, told: str, tmp_path: Path, to: Path
) -> None:
    """The error ends with the end of Go's output; the installed runsc stays, alone."""
    (to / "runsc").write_bytes(b"as it was")
    fake = FakeGo(tmp_path / "go", script)
    with pytest.raises(InstallFailed, match=told) as caught:
        fake.install(to)
    assert "\x1b" not in str(caught.value)
    assert [path.read_bytes() for path in to.iterdir()] == [b"as it was"]


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("go1.19.8", "is go1.19.8"),
        ("go1.26.2", "is go1.26.2"),
        ("go1.26.3rc1", ""),
        ("", "too old"),
    ],
)
def test_a_go_that_is_too_old_is_named(version: str, told: str, tmp_path: Path) -> None:
    """An old or missing Go is an error with the needed version and a place to get it."""
    fake = FakeGo(tmp_path / "go", OK, version)
    if version == "go1.26.3rc1":  # Go has no such versions; 1.26rc1 is one before 1.26.0
        fake = FakeGo(tmp_path / "go2", OK, "go1.26rc1")
    with pytest.raises(InstallFailed, match=r"Go 1\.26\.3 or later is needed") as caught:
        toolchain.find(gomodule.GO_NEEDED, environ=fake.environ, usual=())
    assert told in str(caught.value)
    for remedy in ("https://go.dev/dl/", "pytest-gvisor install", "distribution"):
        assert remedy in caught.value.next_step
    relative = {"PATH": f"::relative:{tmp_path}/none", "HOME": str(tmp_path)}
    with pytest.raises(InstallFailed, match="there is none in the absolute folders of PATH"):
        toolchain.find(gomodule.GO_NEEDED, environ=relative, usual=())


def test_a_newer_go_behind_an_older_one_is_taken(tmp_path: Path) -> None:
    """A distribution's package may come first in PATH, and go.dev's archive may not be in it."""
    old = FakeGo(tmp_path / "old", OK, "go1.19.8")
    new = FakeGo(tmp_path / "new", OK, "go1.26.3")
    environ = {**old.environ, "PATH": f"{old.folder}:{new.folder}:/usr/bin:/bin"}
    found = toolchain.find(gomodule.GO_NEEDED, environ=environ, usual=())
    assert (found.path, found.version) == (str(new.folder / "go"), (1, 26, 3))
    usual = (str(tmp_path / "n*" / "go"),)
    behind = toolchain.find(gomodule.GO_NEEDED, environ=old.environ, usual=usual)
    assert (behind.path, behind.version) == (found.path, found.version)


def test_a_go_that_says_nothing_ends_at_the_deadline(tmp_path: Path, to: Path) -> None:
    """A Go that does not answer its version ends at the deadline; other output is shown."""
    fake = FakeGo(tmp_path / "go", OK)
    path = fake.folder / "go"
    path.write_text(f"#!/bin/sh\nsleep 500 & echo $$ $! > {fake.pids}\nsleep 500\n")
    started = time.monotonic()
    with pytest.raises(InstallTimeout, match="did not say its version within 0"):
        fake.install(to, timeout=0.7)
    assert time.monotonic() - started < 50
    wait_for(lambda: not alive(fake.pids), "the end of both")
    path.write_text("#!/bin/sh\necho 'what \033?'; exit 3\n")
    with pytest.raises(InstallFailed, match=r"does not answer .* \(status 3\): what \\"):
        fake.install(to)
    assert os.listdir(to) == []


def test_a_build_ends_at_the_deadline(tmp_path: Path, to: Path) -> None:
    """The deadline ends the build with all its processes; the status is 124."""
    fake = FakeGo(tmp_path / "go", HANGS)
    with fake.tool(to, "--timeout", "2") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 124
    assert b"was not done within the 2 s for everything" in err
    assert alive(fake.pids) == []
    assert os.listdir(to) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing(
    number: signal.Signals, tmp_path: Path, to: Path
) -> None:
    """An interrupted build leaves nothing; after SIGKILL the next build removes the files."""
    fake = FakeGo(tmp_path / "go", HANGS)
    with fake.tool(to) as process:
        wait_for(lambda: len(alive(fake.pids)) == 2, "the build")
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert b"Traceback" not in err
    if number == signal.SIGKILL:
        wait_for(lambda: not alive(fake.pids), "the end of both")
        FakeGo(tmp_path / "go2", OK).install(to)
        assert len(os.listdir(to)) == 2
    else:
        assert alive(fake.pids) == []
        assert process.returncode == 128 + number
        assert os.listdir(to) == []


def test_a_go_that_is_killed_is_told_so(tmp_path: Path, to: Path) -> None:
    """A Go that the kernel killed is named with its status, and leaves nothing."""
    fake = FakeGo(tmp_path / "go", HANGS)
    with fake.tool(to) as process:
        wait_for(lambda: len(alive(fake.pids)) == 2, "the build")
        for pid in alive(fake.pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"(status -9)" in err
    assert alive(fake.pids) == []
    assert os.listdir(to) == []


def test_a_terminal_is_told_how_far_a_build_is(tmp_path: Path, to: Path) -> None:
    """A terminal shows the modules fetched, the packages built and the seconds, on one line."""
    lines = "echo 'go: downloading example.com/x v1.0.0' >&2; echo internal/one >&2; sleep 1; "
    fake = FakeGo(tmp_path / "go", lines + OK)
    ours, theirs = pty.openpty()
    env = {**os.environ, **fake.environ, "TERM": "dumb"}
    with fake.tool(to, stderr=theirs, env=env) as process:
        os.close(theirs)
        process.communicate(timeout=60)
    text = os.read(ours, 65536).decode()
    os.close(ours)
    assert process.returncode == 0
    assert re.search(r"\r[01] s, 1 modules fetched, 1 packages built", text)
    assert text.count("\n") == 1


def test_root_runs_no_go_that_others_can_write(tmp_path: Path) -> None:
    """Root refuses a Go or a build cache that another user can write."""
    if os.geteuid() != 0:
        pytest.skip("needs root: another user runs the Go of its own PATH")
    fake = FakeGo(tmp_path / "go", OK)
    (fake.folder / "cache").mkdir()
    toolchain.find(gomodule.GO_NEEDED, environ=fake.environ, usual=())
    os.chown(fake.folder / "cache", 12345, 12345)
    with pytest.raises(InstallFailed, match=r"refusing to run .*GOCACHE.* as root"):
        toolchain.find(gomodule.GO_NEEDED, environ=fake.environ, usual=())
    path = fake.folder / "go"
    path.chmod(0o775)
    with pytest.raises(InstallFailed, match="its group or others may write it"):
        toolchain.find(gomodule.GO_NEEDED, environ=fake.environ, usual=())
    path.chmod(0o755)
    fake.folder.chmod(0o777)
    with pytest.raises(InstallFailed, match="can be written by others"):
        toolchain.find(gomodule.GO_NEEDED, environ=fake.environ, usual=())
    fake.folder.chmod(0o755)
    os.chown(path, 12345, 12345)
    with pytest.raises(InstallFailed, match=r"owned by uid 12345 \(allowed: root\)"):
        toolchain.find(gomodule.GO_NEEDED, environ=fake.environ, usual=())
    assert not fake.seen.exists()


@pytest.mark.parametrize(
    "name",
    ["", "20240729", "v1", "v1.2", "master", "v0.0.0-20260905035102", "v1.2.3 -x", "-v1.2.3"],
)
def test_a_version_is_named_as_go_names_it(name: str) -> None:
    """A pseudo-version or a plain one; and a mirror of the bucket is no proxy."""
    with pytest.raises(UsageError, match="is no version of a Go module"):
        install.main(["--from", "go", f"--release={name}"])
    with pytest.raises(UsageError, match="--base-url"):
        install.main(["--from", "go", "--base-url", "https://example.org"])


def test_the_label_has_the_date_and_is_no_release_s() -> None:
    """The date is read from it as from a release's name."""
    label = gomodule.label(gomodule.TESTED)
    assert label == "20260905-module-160fafc42237"
    shown, date = features.parse_version(label)
    assert (shown, str(date)) == (label, "2026-09-05")
    assert gomodule.label("v1.2.3") == "module-v1.2.3"
    assert gomodule.label("v1.2.4-0.20260905035102-160fafc42237") == label
    assert gomodule.version_name("latest") == gomodule.TESTED

"""``pytest-gvisor install``, from a server on the loopback that has the real runsc."""

import contextlib
import fcntl
import os
import pkgutil
import platform
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.base.errors import InstallFailed, UsageError
from pytest_gvisor.cli import install
from pytest_gvisor.install import place, release
from pytest_gvisor.install.fetch import Client
from pytest_gvisor.runsc import locate
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.sessions.places import RUNSC_PATHS
from tests.bucket import PLACE, Answer, Bucket, a_real_runsc, a_small_runsc, archive, send, served
from tests.runsc.conftest import wait_for


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """A server that is gone afterwards."""
    with served() as made:
        yield made


@pytest.fixture(scope="module")
def real() -> bytes:
    """The bytes of a runsc."""
    return a_real_runsc()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a program that answers as a runsc does."""
    return a_small_runsc(tmp_path_factory.mktemp("compiled"))


def get(bucket: Bucket, folder: Path, **limits: float) -> place.Installed:
    """Install from the bucket, without a terminal."""
    client = Client(bucket.url, **{"timeout": 30.0, **limits})
    return release.install(client, "latest", str(folder))


def tool(
    bucket: Bucket, folder: Path, *, more: tuple[str, ...] = (), **options: Any
) -> subprocess.Popen[bytes]:
    """The command line tool, started."""
    command = [sys.executable, "-m", "pytest_gvisor", "install", "--to", str(folder)]
    return subprocess.Popen(
        [*command, "--base-url", bucket.url, *more],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def test_a_release_that_is_one_file(bucket: Bucket, real: bytes, tmp_path: Path) -> None:
    """The older layout is one runsc, executable by all, in a new folder, without messages."""
    bucket.put("runsc", real)
    folder = tmp_path / "new" / "bin"
    with tool(bucket, folder) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert os.listdir(folder) == ["runsc"]
    path = folder / "runsc"
    assert path.read_bytes() == real
    assert path.stat().st_mode & 0o7777 == 0o755
    runsc = Runsc.find(str(path))
    runsc.close()
    assert f"runsc {runsc.version} is at {path}\n".encode() in out
    # Whoever is root cannot name it by PATH, and for others the fixed places come before PATH.
    assert out.endswith(f"Name it with pytest's --gvisor-runsc={path}.\n".encode())


def test_a_bucket_may_refuse_files_that_are_missing(
    bucket: Bucket, small: bytes, tmp_path: Path
) -> None:
    """A bucket that lists nothing to strangers answers 403 for what it does not have, as S3."""
    bucket.put("runsc", small)
    bucket.files[f"{PLACE}/gvisor.tar.bz2.sha512"] = lambda handler: handler.send_error(403)
    assert get(bucket, tmp_path).path == str(tmp_path / "runsc")


def test_a_release_that_is_an_archive(bucket: Bucket, small: bytes, tmp_path: Path) -> None:
    """The newer layout is runsc with its gvisor-bin; the previous release stays for its users."""
    made = archive(runsc=small, gvisor_bin__gvisor_sentry=b"one", shim=b"x", __etc__passwd=b"x")
    bucket.put("gvisor.tar.bz2", made)
    bucket.put("runsc", b"the other layout is not asked for")
    first = get(bucket, tmp_path)
    assert os.path.samefile(first.path, first.real)
    home = Path(first.real).parent
    assert sorted(os.listdir(home)) == ["gvisor-bin", "runsc"]
    assert (home / "gvisor-bin" / "gvisor_sentry").read_bytes() == b"one"
    assert sorted(os.listdir(tmp_path)) == sorted([home.name, "runsc"])
    judged = locate.find(first.path)
    judged.close()
    assert judged.path == first.real
    bucket.put("gvisor.tar.bz2", archive(runsc=small, gvisor_bin__gvisor_sentry=b"two"))
    second = get(bucket, tmp_path)
    assert (Path(second.real).parent / "gvisor-bin" / "gvisor_sentry").read_bytes() == b"two"
    assert home.is_dir()


def test_this_user_alone_may_write_to_new_folders(
    bucket: Bucket, small: bytes, tmp_path: Path
) -> None:
    """With the umask 002, which some systems have, a group could write to ~/.local."""
    bucket.put("runsc", small)
    before = os.umask(0o002)
    try:
        get(bucket, tmp_path / ".local" / "bin")
    finally:
        os.umask(before)
    assert (tmp_path / ".local").stat().st_mode & 0o777 == 0o755


OFFLINE = """\
pytest-gvisor install: {url}/latest/{machine}/gvisor.tar.bz2.sha512: {cause}
This machine does not reach the server: set https_proxy if it needs a proxy. Else run \
`pytest-gvisor install --to gvisor` on a machine that does, copy the folder gvisor here \
(`cp -a`), and name it: `pytest --gvisor-runsc=gvisor/runsc`. On Debian 13, `apt-get install \
runsc` takes it from Debian's mirror.
"""
CAUSES = {
    "http://127.0.0.1:9": r"\[Errno 111\] Connection refused",
    "https://gvisor.invalid": r"\[Errno -\d\] (Temporary failure in name resolution|"
    r"Name or service not known)",
}


@pytest.mark.parametrize("url", CAUSES)
def test_without_a_network_the_whole_way_out_is_printed(url: str, tmp_path: Path) -> None:
    """The cause is the last of all, with no name of a library. Nothing is left."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest_gvisor", "install", "--to", tmp_path, "--base-url", url],
        env={name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    first, _, rest = OFFLINE.partition("{cause}")
    first = first.format(url=url, machine=platform.machine())
    assert re.fullmatch(re.escape(first) + CAUSES[url] + re.escape(rest), done.stderr), done.stderr
    assert (done.returncode, done.stdout, os.listdir(tmp_path)) == (1, "", [])


def test_a_folder_from_another_machine_is_used_as_the_message_says(
    bucket: Bucket, real: bytes, tmp_path: Path
) -> None:
    """The commands of the message: `install --to gvisor` there, `cp -a`, and pytest here."""
    bucket.put("runsc", real)
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    commands = re.findall("`(.*?)`", OFFLINE)
    install, copy, pytest_here, _apt = map(str.split, commands)
    assert (install[:2], copy, pytest_here[0]) == (
        ["pytest-gvisor", "install"],
        ["cp", "-a"],
        "pytest",
    )
    tool = [sys.executable, "-m"]
    subprocess.run(
        [*tool, "pytest_gvisor", *install[1:], "--base-url", bucket.url], cwd=there, check=True
    )
    subprocess.run([*copy, there / "gvisor", here], check=True)
    (here / "test_it.py").write_text("def test_it(gvisor): gvisor.run(['true'], check=True)\n")
    done = subprocess.run(
        [*tool, *pytest_here, "-p", "no:cacheprovider", "--gvisor-strict"], cwd=here
    )
    assert done.returncode == 0


def broken(bucket: Bucket, kind: str, small: bytes) -> dict[str, float]:
    """Make the bucket's runsc one that must be refused; return the limits for the attempt."""
    path = f"{PLACE}/runsc"
    bucket.put("runsc", small)
    if kind == "digest":
        bucket.put("runsc", small, "0" * 128)
    elif kind == "no digest":
        bucket.files[f"{path}.sha512"] = b"<html>\x1b[31m"
    elif kind == "truncated":
        bucket.files[path] = lambda handler: send(handler, small[:100], len(small))
    elif kind == "nothing":
        bucket.files.clear()
    elif kind == "gone":
        del bucket.files[path]
    elif kind == "silent":
        bucket.files[path] = silence(bucket.over)
        return {"silence": 1.5}
    elif kind == "dripping":
        bucket.files[path] = lambda handler: drip(handler, bucket.over)
        return {"timeout": 3.0}
    elif kind == "huge":
        bucket.files[path] = lambda handler: send(handler, b"x", release.MAX_DOWNLOAD + 1)
    elif kind == "endless":
        bucket.files[f"{path}.sha512"] = b"x" * 100_000
    elif kind == "redirect":
        bucket.files[path] = lambda handler: redirect(handler, "http://192.0.2.1/runsc")
    elif kind == "file":
        bucket.files[path] = lambda handler: redirect(handler, "file:///etc/passwd")
    elif kind == "loop":
        bucket.files[path] = lambda handler: redirect(handler, f"{bucket.url}{path}")
    elif kind == "no runsc":
        bucket.put("runsc", b"\x7fELF and no more")
    elif kind == "script":
        bucket.put("runsc", b"#!/bin/sh\ntouch /tmp/ran\n")
    elif kind == "rubbish":
        bucket.put("gvisor.tar.bz2", b"no archive")
    elif kind == "cut archive":
        bucket.put("gvisor.tar.bz2", archive(runsc=os.urandom(100_000))[:-1000])
    elif kind == "empty archive":
        bucket.put("gvisor.tar.bz2", archive(other=b"x"))
    elif kind == "link":
        link = tarfile.TarInfo()
        link.type, link.linkname = tarfile.SYMTYPE, "/bin/sh"
        bucket.put("gvisor.tar.bz2", archive(runsc=link))
    elif kind == "twice":
        bucket.put("gvisor.tar.bz2", archive(runsc=b"x", **{"./runsc": b"x"}))
    return {}


def silence(over: threading.Event) -> Answer:
    """Say nothing."""

    def answer(_handler: BaseHTTPRequestHandler) -> None:
        over.wait(20)

    return answer


def drip(handler: BaseHTTPRequestHandler, over: threading.Event) -> None:
    """A status line and headers that never end, a byte at a time."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    with contextlib.suppress(OSError):
        while not over.wait(0.05):
            handler.wfile.write(b"X")


def redirect(handler: BaseHTTPRequestHandler, to: str) -> None:
    """Send the client elsewhere."""
    handler.send_response(302)
    handler.send_header("Location", to)
    handler.end_headers()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("digest", "is not what its SHA-512 says"),
        ("no digest", r"holds no SHA-512 of runsc: <html>\\x1b\[31m"),
        ("truncated", r"IncompleteRead\(100 bytes read"),
        ("nothing", "gives neither gvisor.tar.bz2.sha512 nor runsc.sha512"),
        ("gone", "the server answers 404 Not Found"),
        ("silent", "the server was silent for 1.5 s"),
        ("dripping", "did not come within the 3 s"),
        ("huge", "is larger than"),
        ("endless", "is larger than"),
        ("redirect", "redirects to http://192.0.2.1/runsc, which is not https"),
        ("file", "redirects to file:///etc/passwd, which is not https"),
        ("loop", "redirects more than 10 times"),
        ("no runsc", "the new runsc cannot be used: refusing to run"),
        ("script", "the new runsc cannot be used: refusing to run"),
        ("rubbish", "the archive cannot be read"),
        ("cut archive", "the archive cannot be read"),
        ("empty archive", "the archive has no runsc in it"),
        ("link", "the archive's runsc is not a regular file"),
        ("twice", "the archive has runsc twice"),
    ],
)
def test_what_cannot_be_used_is_said_and_not_left(
    kind: str, told: str, bucket: Bucket, small: bytes, tmp_path: Path
) -> None:
    """A typed error within its deadline; the runsc that was there is as it was, alone."""
    limits = broken(bucket, kind, small)
    (tmp_path / "runsc").write_bytes(b"as it was")
    started = time.monotonic()
    with pytest.raises(InstallFailed, match=told) as caught:
        get(bucket, tmp_path, **limits)
    assert time.monotonic() - started < 30
    assert "\x1b" not in str(caught.value)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"as it was"]


def test_a_deadline_that_passed_is_status_124(bucket: Bucket, tmp_path: Path) -> None:
    """A server that sends nothing until the deadline is named, with status 124."""
    bucket.files[f"{PLACE}/gvisor.tar.bz2.sha512"] = silence(bucket.over)
    with tool(bucket, tmp_path, more=("--timeout", "0.3")) as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 124
    assert b"did not come within the 0.3 s for everything" in err
    assert os.listdir(tmp_path) == []


def test_a_redirect_on_the_loopback_is_followed(
    bucket: Bucket, small: bytes, tmp_path: Path
) -> None:
    """A server of one's own may send its clients from one place to another."""
    bucket.put("runsc", small)
    bucket.files["/elsewhere"] = small
    bucket.files[f"{PLACE}/runsc"] = lambda handler: redirect(handler, f"{bucket.url}/elsewhere")
    assert get(bucket, tmp_path).path == str(tmp_path / "runsc")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_installation_leaves_nothing(
    bucket: Bucket, real: bytes, tmp_path: Path, number: signal.Signals
) -> None:
    """Half of it is there when the signal comes. After SIGKILL the next installation sees to it."""
    bucket.put("runsc", real)

    def half(handler: BaseHTTPRequestHandler) -> None:
        send(handler, real[: len(real) // 2], len(real))
        bucket.over.wait(30)

    bucket.files[f"{PLACE}/runsc"] = half
    with tool(bucket, tmp_path) as process:
        wait_for(lambda: any(p.stat().st_size for p in tmp_path.rglob("*.part")), "half of it")
        process.send_signal(number)
        _out, err = process.communicate(timeout=20)
    assert b"Traceback" not in err
    if number == signal.SIGKILL:
        bucket.files[f"{PLACE}/runsc"] = real
        get(bucket, tmp_path)
        assert os.listdir(tmp_path) == ["runsc"]
    else:
        assert process.returncode == 128 + number
        assert os.listdir(tmp_path) == []


# The tool, killed when it is about to put the link in its place, where the release is already.
KILLED = """
import os, signal, sys
from pytest_gvisor.cli import main
from pytest_gvisor.install import place
rename = os.rename

def killing(source, target):
    if os.path.basename(target) == "runsc":
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)

place.os.rename = killing
main.main(sys.argv[1:])
"""


def test_a_release_whose_link_never_came_is_removed_by_the_next_installation(
    bucket: Bucket, small: bytes, tmp_path: Path
) -> None:
    """The next installation removes the unlinked release, and keeps the releases before it."""
    bucket.put("gvisor.tar.bz2", archive(runsc=small, gvisor_bin__x=b"one"))
    before = tmp_path / "gvisor-20200101.0-0123abcd"
    before.mkdir()
    command = [sys.executable, "-c", KILLED, "install", "--to", str(tmp_path)]
    done = subprocess.run([*command, "--base-url", bucket.url], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len([name for name in os.listdir(tmp_path) if name.startswith("gvisor-")]) == 2
    assert not os.path.lexists(tmp_path / "runsc")
    after = Path(get(bucket, tmp_path).real).parent
    assert sorted(os.listdir(tmp_path)) == sorted([before.name, after.name, "runsc"])


@pytest.mark.parametrize("step", ["fcntl.flock", f"{place.__name__}._is_locked"])
def test_a_new_folder_that_another_installation_has_removed_is_made_again(
    bucket: Bucket, small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The other one looks for remains before this one has locked it, or has opened it."""
    bucket.put("runsc", small)
    real, others = pkgutil.resolve_name(step), [place._remove_stale]

    def late(*arguments: object) -> object:
        while others:
            others.pop()(str(tmp_path))
        return real(*arguments)

    monkeypatch.setattr(step, late)
    assert get(bucket, tmp_path).path == str(tmp_path / "runsc")
    assert os.listdir(tmp_path) == ["runsc"]


def test_a_new_folder_that_another_process_has_locked_is_left_to_it(
    bucket: Bucket, small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installation takes another folder, and waits for nobody."""
    bucket.put("runsc", small)
    flock, others = fcntl.flock, list[int]()

    def late(fd: int, operation: int) -> None:
        if not others:
            others.append(os.open(next(tmp_path.iterdir()), os.O_RDONLY))
            flock(others[0], fcntl.LOCK_EX)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert get(bucket, tmp_path).path == str(tmp_path / "runsc")
    os.close(others[0])
    assert os.listdir(tmp_path) == ["runsc"]


def test_a_folder_that_others_may_write_to_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    """An unsafe folder is refused before any download, since the plugin would refuse its runsc."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(InstallFailed, match="can be written by others"):
        get(bucket, shared)
    assert os.listdir(shared) == []
    (tmp_path / "runsc").mkdir()
    with pytest.raises(InstallFailed, match="is a folder"):
        get(bucket, tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InstallFailed, match="file"):
        get(bucket, tmp_path / "file")


@pytest.mark.parametrize(
    "url",
    ["http://192.0.2.1/", "ftp://127.0.0.1/", "file:///tmp", "http://", "https:///x",
     "http://127.0.0.1.example.org/", "http://[::1", "https://a:port/"],
)  # fmt: skip
def test_a_base_url_is_https_or_the_loopback_s(url: str) -> None:
    """A base URL is https, or http to the loopback; any other is a usage error."""
    with pytest.raises(UsageError):
        Client(url, timeout=1)
    Client("https://example.org/mirror/", timeout=1)
    Client("http://[::1]:8000", timeout=1)


@pytest.mark.parametrize("name", ["", "../latest", "2024", "20240729.", "20240729/x", "newest"])
def test_a_release_is_named_as_gvisor_names_it(name: str) -> None:
    """A release is `latest` or has the form of gVisor's own names."""
    with pytest.raises(UsageError, match="neither latest nor"):
        install.main(["--release", name])
    assert release.release_name("release-20240729.0") == "20240729.0"


def test_the_default_folder_is_one_that_the_search_looks_in(tmp_path: Path) -> None:
    """Root's is among the trusted paths, another user's is where PATH has it as a rule."""
    assert place.folder_for(0, "/root") + "/runsc" in RUNSC_PATHS
    assert place.folder_for(1000, "/home/u") == "/home/u/.local/bin"

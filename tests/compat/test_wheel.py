"""pytest-gvisor-runsc as ``make wheel`` builds it, in fresh environments by pip and uv."""

import functools
import hashlib
import http.server
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compat.test_versions import CHECKOUT, PROJECT, base_python, call, outcomes

NAME = "pytest-gvisor-runsc"
INSIDE = """\
import os
import pytest

@pytest.mark.in_gvisor
def test_z():
    assert "PYTEST_GVISOR_INSIDE" in os.environ
"""


@pytest.fixture(scope="module")
def runsc_wheel() -> Path:
    """The wheel of this machine, built once a checkout."""
    done = subprocess.run(
        [CHECKOUT / "scripts/wheel", "amd64"], capture_output=True, text=True, timeout=1800
    )
    if "there is no Go" in done.stderr:
        pytest.skip("no Go that builds gVisor: Go 1.26.3 or later is needed")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[0])


@pytest.fixture(scope="module")
def index(runsc_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a simple index with this distribution alone."""
    folder = tmp_path_factory.mktemp("index")
    (folder / NAME).mkdir()
    (folder / NAME / runsc_wheel.name).symlink_to(runsc_wheel)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """The listing of a folder is a page of a simple index."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base's name
        """Write no line a request."""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The python of an empty environment."""
    call(base_python(), "-m", "venv", tmp_path / "env", cwd=tmp_path)
    return tmp_path / "env/bin/python"


def test_a_project_runs_with_the_runsc_of_its_lock_file(
    python: Path, runsc_wheel: Path, tmp_path: Path
) -> None:
    """`pip install 'pytest-gvisor[runsc]'`, and nothing else: header and doctor name the wheel."""
    # The project's tests inside are for xdist, which is not installed.
    for name in ("test_workload.py", "pytest.ini"):
        (tmp_path / name).write_text(PROJECT[name].replace("\n        ", "\n").lstrip())
    (tmp_path / "test_inside.py").write_text(INSIDE)
    # By its path: until the name is registered, an index may have something else of that name.
    call(python, "-m", "pip", "install", runsc_wheel, f"{CHECKOUT}[runsc]", cwd=tmp_path)
    ran = call(python, "-m", "pytest", "--gvisor-strict", "--gvisor-network=none", cwd=tmp_path)
    assert outcomes(ran) == "3 passed"
    (line,) = re.findall(r"^gvisor: .*", ran, re.MULTILINE)
    path = next(tmp_path.glob("env/lib/python3*/site-packages/pytest_gvisor_runsc/bin/*"))
    assert f"module-160fafc42237 ({path}, from the wheel {NAME})" in line
    doctor = call(python, "-m", "pytest_gvisor", "doctor", "--json", cwd=tmp_path)
    assert f"at {path}, from the wheel {NAME}, trusted, with" in doctor
    said = call(
        python, "-c", "import pytest_gvisor_runsc as p; print(p.PATH, p.VERSION)", cwd=tmp_path
    )
    assert said == f"{path} 20260905-module-160fafc42237\n"


def test_it_is_downloaded_and_checked_by_its_hash(
    python: Path, index: str, runsc_wheel: Path, tmp_path: Path
) -> None:
    """`pip download` from an index gives the file itself; pip refuses another hash."""
    pip = (python, "-m", "pip", "--isolated")
    call(*pip, "download", "--no-deps", "--index-url", index, NAME, cwd=tmp_path)
    assert (tmp_path / runsc_wheel.name).read_bytes() == runsc_wheel.read_bytes()
    digest = hashlib.sha256(runsc_wheel.read_bytes()).hexdigest()
    install = ("install", "--index-url", index, "--require-hashes", "-r", tmp_path / "lock.txt")
    (tmp_path / "lock.txt").write_text(f"{NAME}==20260905.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(AssertionError, match="DO NOT MATCH THE HASHES"):
        call(*pip, *install, cwd=tmp_path)
    (tmp_path / "lock.txt").write_text(f"{NAME}==20260905.0 --hash=sha256:{digest}\n")
    assert f"Successfully installed {NAME}-20260905.0" in call(*pip, *install, cwd=tmp_path)


@pytest.mark.parametrize("mode", ["hardlink", "symlink"])
def test_uv_installs_it_in_each_of_its_ways(
    mode: str, python: Path, runsc_wheel: Path, tmp_path: Path
) -> None:
    """The file may be a link into the cache: the search takes it all the same."""
    call(python, "-m", "pip", "install", "uv", cwd=tmp_path)
    uv = (python, "-m", "uv", "pip", "install", "--python", python, "--link-mode", mode)
    call(*uv, "--cache-dir", tmp_path / "c", runsc_wheel, f"{CHECKOUT}[runsc]", cwd=tmp_path)
    code = "from pytest_gvisor import Runsc; r = Runsc.find(); print(r.origin, r.sidecars.programs)"
    said = call(python, "-c", code, cwd=tmp_path)
    assert said == f"from the wheel {NAME} ('gvisor_sentry',)\n"

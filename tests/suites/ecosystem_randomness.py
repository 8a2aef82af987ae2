"""Random numbers in 64 copies of a saved sandbox, with packages of PyPI: ``make ecosystem``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inside.test_copies import COPIES, DRAWING, DRAWS, different

PLUGIN = (
    DRAWING
    + """
import ctypes, glob
import faker, numpy

site = os.path.dirname(os.path.dirname(faker.__file__))
(path,) = glob.glob(site + "/psycopg_binary.libs/libcrypto*")
library, data = ctypes.CDLL(path), ctypes.create_string_buffer(8)
DRAWS |= {
    "psycopg": lambda: library.RAND_bytes(data, 8) == 1 and data.raw,
    "faker": lambda: faker.Faker().sha256(),
    "numpy": numpy.random.random,
}
if os.environ.get("SEEDED"):
    for seed in (numpy.random.seed, random.seed, faker.Faker.seed):
        seed(7)
before = [draw() for draw in DRAWS.values()]
"""
)
NONE = "gvisor: sandboxes of tests inside did not begin as copies: copies would repeat the random "


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages."""
    folder = tmp_path_factory.mktemp("site")
    names = ["cryptography", "faker", "grpcio", "numpy", "psycopg-binary", "uuid-utils"]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder)]
    subprocess.run([*pip, *names], check=True)
    return folder


def run(folder: Path, site: Path, plugin: str, count: int, seeded: str = "") -> list[str]:
    """Run tests that have a sandbox each, with a plugin; return what pytest prints."""
    (folder / "drawing_plugin.py").write_text(plugin)
    (folder / "test_it.py").write_text(DRAWS.format(count))
    (folder / "pytest.ini").write_text("[pytest]\n")
    argv = [sys.executable, "-m", "pytest", "-v", "-rP", "--in-gvisor", "--gvisor-strict"]
    done = subprocess.run(
        [*argv, "--gvisor-isolation=test", "-p", "drawing_plugin", "--gvisor-env=SEEDED"],
        env={**os.environ, "PYTHONPATH": f"{folder}:{site}", "SEEDED": seeded},
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert f"{count} passed" in done.stdout, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(("seeded", "count"), [("", 65), ("1", 3)])
def test_copies_draw_other_numbers_unless_a_plugin_has_seeded(
    tmp_path: Path, site: Path, seeded: str, count: int
) -> None:
    """Each sandbox has other numbers of each kind, and the same of one with a seed."""
    lines = run(tmp_path, site, PLUGIN, count, seeded)
    assert COPIES.format(f"{count - 1} sandboxes") in lines
    ones = {"seeded", "random", "faker", "numpy"} if seeded else {"seeded"}
    found = different(lines)
    assert found == {**dict.fromkeys(found, count), **dict.fromkeys(ones, 1)}
    assert len(found) == 14


@pytest.mark.parametrize(
    ("module", "library"),
    [("cryptography.fernet", "_rust"), ("uuid_utils", "_uuid_utils"), ("grpc", "cygrpc")],
)
def test_there_are_no_copies_with_a_generator_that_is_out_of_reach(
    tmp_path: Path, site: Path, module: str, library: str
) -> None:
    """OpenSSL and BoringSSL within a module, and the generator of Rust's ``rand``."""
    lines = run(tmp_path, site, f"import {module}\nDRAWS = {{}}\n", 2)
    (line,) = [line for line in lines if line.startswith(NONE)]
    assert f"/{library}." in line

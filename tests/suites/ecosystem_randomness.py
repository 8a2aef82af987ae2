"""Random numbers in 64 copies of a saved sandbox, with packages of PyPI: ``make ecosystem``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COPIES = 64
PLUGIN = """
import ctypes, glob, os, random, secrets, ssl, tempfile, uuid
import faker, numpy

site = os.path.dirname(os.path.dirname(faker.__file__))
(path,) = glob.glob(site + "/psycopg_binary.libs/libcrypto*")
bundled = ctypes.CDLL(path)

def of_bundled():
    data = ctypes.create_string_buffer(8)
    assert bundled.RAND_bytes(data, 8) == 1
    return data.raw.hex()

DRAWS = {
    "ssl": lambda: ssl.RAND_bytes(8).hex(),
    "psycopg": of_bundled,
    "random": random.random,
    "faker": lambda: faker.Faker().sha256(),
    "numpy": lambda: float(numpy.random.random()),
    "tempfile": tempfile.mktemp,
    "uuid": lambda: str(uuid.uuid4()),
    "secrets": lambda: secrets.token_hex(8),
    "kernel": lambda: os.urandom(8).hex(),
}
if os.environ.get("SEEDED"):
    numpy.random.seed(7)
    random.seed(7)
    faker.Faker.seed(7)
before = [draw() for draw in DRAWS.values()]
"""
TESTS = """
import drawing_plugin, pytest

@pytest.mark.parametrize("number", range({}))
def test_it(number, tmp_path):
    for name, draw in drawing_plugin.DRAWS.items():
        print("drawn", name, draw())
"""
SAYS = "gvisor: sandboxes of tests inside did not begin as copies: copies would repeat the random "


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages."""
    folder = tmp_path_factory.mktemp("site")
    names = ["cryptography", "faker", "grpcio", "numpy", "psycopg-binary", "uuid-utils"]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder)]
    subprocess.run([*pip, *names], check=True)
    return folder


def run(
    folder: Path, site: Path, plugin: str, count: int, *arguments: str, **variables: str
) -> str:
    """Run tests that have a sandbox each, with a plugin; return what pytest prints."""
    (folder / "drawing_plugin.py").write_text(plugin)
    (folder / "test_it.py").write_text(TESTS.format(count))
    (folder / "pytest.ini").write_text("[pytest]\n")
    argv = [sys.executable, "-m", "pytest", "-v", "-rP", "--in-gvisor", "--gvisor-strict"]
    done = subprocess.run(
        [*argv, "--gvisor-isolation=test", "-p", "drawing_plugin", *arguments], cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{site}", **variables},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert f"{count} passed" in done.stdout, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("seeded", [False, True])
def test_copies_draw_other_numbers_unless_a_plugin_has_seeded(
    tmp_path: Path, site: Path, *, seeded: bool
) -> None:
    """Each sandbox has other numbers of each kind, and the same of one with a seed."""
    count = 3 if seeded else COPIES + 1
    variables = {"SEEDED": "1"} if seeded else {}
    output = run(
        tmp_path,
        site,
        PLUGIN,
        count,
        "--gvisor-env=SEEDED",
        "--gvisor-platform=systrap",
        **variables,
    )
    assert f"gvisor: {count - 1} sandboxes of tests inside began as copies" in output
    lines = [line.split() for line in output.splitlines() if line.startswith("drawn ")]
    kinds = {name: {drawn for _, other, drawn in lines if other == name} for _, name, _ in lines}
    ones = {"random", "faker", "numpy"} if seeded else set()
    assert {name: len(drawn) for name, drawn in kinds.items()} == {
        name: 1 if name in ones else count for name in kinds
    }
    assert len(kinds) == 9


@pytest.mark.parametrize(
    ("module", "library"),
    [("cryptography.fernet", "_rust"), ("uuid_utils", "_uuid_utils"), ("grpc", "cygrpc")],
)
def test_there_are_no_copies_with_a_generator_that_is_out_of_reach(
    tmp_path: Path, site: Path, module: str, library: str
) -> None:
    """OpenSSL and BoringSSL within a module, and the generator of Rust's ``rand``."""
    output = run(tmp_path, site, f"import {module}\nDRAWS = {{}}\n", 2)
    (line,) = [line for line in output.splitlines() if line.startswith(SAYS)]
    assert f"/{library}." in line

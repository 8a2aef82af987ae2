"""The random generators of a pytest that is saved, and of its copies."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.guest.tests import randomness
from pytest_gvisor.guest.tests.randomness import Randomness


@pytest.fixture
def generators() -> Iterator[Randomness]:
    """Generators that are watched; Python's own has its state again at the end."""
    before, functions = random.getstate(), (random.seed, random.setstate, random.Random.seed)
    made = Randomness()
    yield made
    made.end_watch()
    assert (random.seed, random.setstate, random.Random.seed) == functions
    random.setstate(before)


OWN = random.Random()
ACTS: dict[str, tuple[Callable[[], object], bool]] = {
    "many numbers": (lambda: [random.random() for _ in range(2000)], False),
    "a seed": (lambda: random.seed(7), True),
    "a seed by its name, and numbers": (lambda: (random.seed(a=7), random.random()), True),
    "a state": (lambda: random.setstate(OWN.getstate()), True),
    "a seed, and none": (lambda: (random.seed(7), random.seed()), False),
    "a seed of another": (lambda: random.Random(7), False),
}
"""What a plugin does with Python's own generator, and whether it is seeded then."""


@pytest.mark.parametrize("act", ACTS)
def test_a_copy_draws_its_own_numbers_unless_a_plugin_has_seeded(
    act: str, generators: Randomness
) -> None:
    """Each call that gives a seed or a state counts, up to the gate; so do other generators."""
    do, seeded = ACTS[act]
    do()
    others = [random.Random(), random.Random(7)]
    generators.end_watch()
    others.append(random.Random())  # not a plugin's
    before = [random.getstate(), *(one.getstate() for one in others)]
    generators.renew()
    after = [random.getstate(), *(one.getstate() for one in others)]
    alike = [old == new for old, new in zip(before, after, strict=True)]
    assert alike == [seeded, False, True, True]


@pytest.mark.parametrize("seeded", [False, True, None])
def test_numpy_s_generator_is_renewed_unless_somebody_has_seeded_it(
    generators: Randomness, monkeypatch: pytest.MonkeyPatch, *, seeded: bool | None
) -> None:
    """numpy itself knows; one that is too old to say so is left alone."""
    calls: list[str] = []
    numbers = SimpleNamespace(seed=lambda: calls.append("seed"))
    if seeded is not None:
        bits = SimpleNamespace(seed_seq=None if seeded else "of the kernel")
        numbers.get_bit_generator = lambda: bits
    monkeypatch.setitem(sys.modules, "numpy.random", numbers)
    generators.renew()
    assert calls == (["seed"] if seeded is False else [])


LIBRARIES: dict[str, tuple[bytes, bool]] = {
    "no generator": (b"/dev/urandom\0", False),
    "OpenSSL": (b"/dev/urandom\0OpenSSL NIST SP 800-90A DRBG\0", True),
    "BoringSSL": (b"/dev/urandom\0OPENSSL_ia32cap\0", True),
    "a cipher alone": (b"OPENSSL_ia32cap\0", False),
    "Rust's rand": (b"/dev/urandom\0could not initialize ThreadRng: ", True),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["lib.so", "libpython3.so"])
def test_a_library_with_a_generator_out_of_reach_is_named(
    name: str, library: str, generators: Randomness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies would repeat its numbers. The OpenSSL of a Python itself gets fresh bytes by `ssl`."""
    text, named = LIBRARIES[library]
    added: list[bytes] = []
    path, maps = tmp_path / name, tmp_path / "maps"
    path.write_bytes(text)
    maps.write_text(f"7f00-7f01 r-xp 00000000 00:01 7  {path}\n7f01-7f02 r-xp 0 0 0 [vdso]\n")

    def opened(path: str, mode: Any = "r") -> Any:
        return open(maps if path == "/proc/self/maps" else path, mode)

    monkeypatch.setattr(os, "listdir", lambda _path: [])
    monkeypatch.setattr(randomness, "open", opened, raising=False)
    monkeypatch.setattr("ssl.RAND_add", lambda data, _bits: added.append(data))
    reached = library == "OpenSSL" and name.startswith("libpython")
    assert generators.prepare() == (str(path) if named and not reached else "")
    generators.renew()
    assert len({*added}) == (2 if reached else 0)

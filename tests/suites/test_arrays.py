"""Arrays of the real numpy, which a loaded module returns."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.suites.compare import FETCHED

SOLUTION = """
    import numpy as np

    def same(value):
        return value

    def numbers():
        return [np.int64(4), np.float32(1.5), np.bool_(True), {np.int8(1): np.float64(2)}]

    def arrays():
        times = np.array(["2026-01-01", "NaT"], dtype="M8[D]")
        return [np.arange(6).reshape(2, 3), np.array([True, False]), np.zeros((0, 3)), times]

    def others():
        record = np.zeros(2, dtype=[("a", "i4")])
        return [np.array([object()]), np.array(["x"]), record, np.longdouble(1)]
"""

SCRIPT = """
import sys, numpy, pytest_gvisor
from pytest_gvisor.guest.wire import plain

forged = plain.decoded(b'["n", "<b1", [1], "Ag=="]', None)
assert (forged.dtype, forged.tobytes()) == (bool, bytes([1]))  # a 2 is no bool
site, file = sys.argv[1:]
with pytest_gvisor.session() as gvisor, gvisor.sandbox(mounts={site: site}, cwd=site) as box:
    solution = box.load(file)
    numbers = solution.numbers()
    assert numbers == [4, 1.5, True, {1: 2.0}], numbers
    assert [type(number) for number in numbers] == [int, float, bool, dict]
    whole, bools, none, times = solution.arrays()
    assert (whole == numpy.arange(6).reshape(2, 3)).all() and whole.dtype == "int64"
    assert bools.dtype == bool and bools.tolist() == [True, False]
    assert none.shape == (0, 3) and str(times) == "['2026-01-01'        'NaT']"
    assert all(type(other) is pytest_gvisor.Remote for other in solution.others())
    turned = numpy.asfortranarray(numpy.random.default_rng(1).random((50, 20)))
    back = solution.same({"turned": turned})["turned"]
    assert (back == turned).all() and back.flags.writeable
print("as it went")
"""


def test_arrays_of_numbers_come_back_and_objects_stay(tmp_path: Path) -> None:
    """An array is its type and its bytes; one of objects, records or texts is a handle."""
    site = FETCHED / "numpy/site"
    assert site.is_dir(), f"{site} is not there: run scripts/suites"
    file = tmp_path / "solution.py"
    file.write_text(textwrap.dedent(SOLUTION))
    command = [sys.executable, "-c", SCRIPT, str(site), str(file)]
    env = {**os.environ, "PYTHONPATH": f"{site}:{Path(__file__).parents[2]}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.stdout == "as it went\n", done.stderr

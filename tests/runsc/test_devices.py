"""Devices of the host, which a sandbox gets by name alone."""

import errno
import os
import sys

import pytest

from pytest_gvisor import Gvisor, bind

POLICY = "--character-device-policy=prefer-emulated"
# Devices that gVisor has none of its own for, and that can be opened to no effect.
CANDIDATES = ("cpu_dma_latency", "hwrng", "loop-control", "btrfs-control", "rtc0", "autofs")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: these devices are root's")
@pytest.mark.parametrize("whole", [True, False], ids=["the folder", "the device"])
def test_a_device_that_was_named_is_the_hosts(gvisor: Gvisor, whole: bool) -> None:
    """A named device, or one of a bound /dev, opens; a device of gVisor's own stays gVisor's."""
    there = [name for name in CANDIDATES if os.path.exists(f"/dev/{name}")]
    if not there:
        pytest.skip("needs a device of the host that gVisor has none of its own for")
    name = there[0]
    shown = "/dev" if whole else f"/dev/{name}"
    inside = f"/there/{name}" if whole else "/there"
    code = f"import os; os.close(os.open({inside!r}, os.O_RDONLY)); print('opened')"
    mounts = [bind(shown, "/there", dangerous=True)]
    done = gvisor.run([sys.executable, "-c", code], mounts=mounts)
    assert (done.stdout, done.stderr) == ("opened\n", "")
    assert (POLICY in gvisor.records[-1].argv) == ("character-device-policy" in gvisor.runsc.flags)


def test_a_run_without_such_a_bind_has_the_policy_of_its_release(gvisor: Gvisor) -> None:
    """A run without a bind of devices has no device of the host, and no flag for them."""
    code = (
        f"import os\ntry: os.open('/dev/{CANDIDATES[0]}', 0)\nexcept OSError as e: print(e.errno)"
    )
    done = gvisor.run([sys.executable, "-c", code])
    assert done.stdout == f"{errno.ENOENT}\n"
    assert not any("character-device-policy" in word for word in gvisor.records[-1].argv)

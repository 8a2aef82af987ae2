"""The line for a shell that runs runsc as it was run."""

import subprocess

from pytest_gvisor.base.settings import Network, Platform
from pytest_gvisor.runsc.command import file_flags, run_argv, save_argv, shell_line


def test_a_line_runs_in_exactly_its_environment() -> None:
    """A real shell says so."""
    line = shell_line(["sh", "-c", 'echo "$A|$B|${HOME-none}"'], {"A": "x 'y'", "B": '"'})
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "x 'y'|\"|none\n"


def test_a_run_that_goes_on_from_an_image_is_a_restore() -> None:
    """All flags before the subcommand are those of any run."""
    fresh, restored = (
        run_argv("g1", "/f", Platform.SYSTRAP, Network.NONE, "--flag", restores=image)
        for image in ("", "/image")
    )
    assert fresh[-4:] == ("run", "--bundle", "/f/bundle", "g1")
    assert restored[-6:] == ("restore", "--image-path", "/image", "--bundle", "/f/bundle", "g1")
    assert fresh[:-4] == restored[:-6]
    assert fresh[-5] == "--flag"


def test_a_sandbox_that_is_saved_runs_on() -> None:
    """The flags of the subcommand come before the id, and the log is the command's own."""
    argv = save_argv("g1", "/f")
    assert argv[-6:] == (
        "checkpoint", "--image-path", "/f/image", "--leave-running", "--compression=none", "g1",
    )  # fmt: skip
    assert argv[: argv.index("checkpoint")] == (
        "runsc", "--root", "/f/root", "--ignore-cgroups", "--log", "/f/save.log",
    )  # fmt: skip


def test_few_open_files_mean_a_small_cache_of_them() -> None:
    """The sentry may hold as many descriptors as any process, and needs some for itself."""
    known = {"dcache", "gofer-network-namespace", "character-device-policy"}
    assert file_flags(known, devices=False, most=1024) == (
        "--dcache=256", "--gofer-network-namespace=new",
    )  # fmt: skip
    assert file_flags({"dcache"}, devices=True, most=2**14 - 1) == ("--dcache=4095",)
    assert file_flags({"dcache"}, devices=True, most=2**14) == ()
    assert file_flags({"character-device-policy"}, devices=True, most=64) == (
        "--character-device-policy=prefer-emulated",
    )

"""First steps with pytest-gvisor: each test runs a program in a gVisor sandbox of its own.

Run them with `make demo`, or `pytest examples -v -s --gvisor-platform systrap,ptrace`.
"""

from __future__ import annotations

import pytest

import pytest_gvisor


def test_run_a_program_and_read_what_it_printed(gvisor: pytest_gvisor.Gvisor) -> None:
    done = gvisor.run(["python3", "-c", "print(6 * 7)"])
    assert done.stdout == "42\n"


def test_the_program_sees_gvisor_s_kernel_and_not_this_one(
    gvisor: pytest_gvisor.Gvisor, gvisor_platform: str
) -> None:
    kernel = gvisor.run(["uname", "-r"], check=True).stdout.strip()
    version = gvisor.run(["cat", "/proc/version"], check=True).stdout.strip()
    print(f"\n    on {gvisor_platform}, the workload saw kernel {kernel}: {version}")
    assert pytest_gvisor.is_gvisor_kernel(kernel)


def test_feed_it_standard_input(gvisor: pytest_gvisor.Gvisor) -> None:
    done = gvisor.run(["sort"], input="pear\napple\n")
    assert done.stdout == "apple\npear\n"


def test_its_exit_status_is_exact_and_no_exception(gvisor: pytest_gvisor.Gvisor) -> None:
    done = gvisor.run(["sh", "-c", "echo sorry >&2; exit 42"])
    assert done.returncode == 42
    assert done.stderr == "sorry\n"


def test_it_sees_the_environment_it_is_given_and_no_more(
    gvisor: pytest_gvisor.Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of this machine")
    done = gvisor.run(["env"], env={"GREETING": "hello"})
    assert "GREETING=hello" in done.stdout.splitlines()
    assert "SECRET" not in done.stdout


def test_it_has_no_network_but_its_own_loopback(gvisor: pytest_gvisor.Gvisor) -> None:
    done = gvisor.run(["cat", "/proc/net/dev"], check=True)
    interfaces = [line.split(":")[0].strip() for line in done.stdout.splitlines() if ":" in line]
    assert interfaces == ["lo"]


def test_a_hang_ends_at_the_deadline_with_its_output_kept(gvisor: pytest_gvisor.Gvisor) -> None:
    with pytest.raises(pytest_gvisor.WorkloadTimeout) as caught:
        gvisor.run(["sh", "-c", "echo so far; sleep 1000"], timeout=10)
    assert caught.value.stdout == "so far\n"

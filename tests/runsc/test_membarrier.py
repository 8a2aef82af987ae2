"""The filter that spares runsc its registration for membarrier(2): its place and its effects."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, Platform, directory
from pytest_gvisor.runsc.features import registers_in_vain
from tests.runsc.conftest import Start, status_of

CALLS = """
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int call(int command) {
    return syscall(SYS_membarrier, command, 0, 0) == 0 ? 0 : errno;
}

int main(void) {
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    printf("%d ", call(1 << 3));
    printf("%d ", call(1 << 4));
    printf("%d\\n", call(1 << 3));
    while (fgets(line, sizeof line, status))
        if (!strncmp(line, "Seccomp:", 8)) fputs(line, stdout);
    return 0;
}
"""
"""MEMBARRIER_CMD_PRIVATE_EXPEDITED is 1 << 3, its registration 1 << 4."""

DEKKER = """
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_int left, right, stop, inside;
static atomic_long entries, clashes;

static void enter(void) {
    if (atomic_fetch_add(&inside, 1) != 0) clashes++;
    for (volatile int i = 0; i < 20; i++);
    atomic_fetch_sub(&inside, 1);
    entries++;
}

/* Its store and its load may be swapped by the processor: only the other's barrier orders them. */
static void *light(void *unused) {
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        atomic_store_explicit(&left, 1, memory_order_relaxed);
        atomic_signal_fence(memory_order_seq_cst);
        if (!atomic_load_explicit(&right, memory_order_relaxed)) enter();
        atomic_store_explicit(&left, 0, memory_order_release);
    }
    return unused;
}

int main(void) {
    pthread_t other;
    syscall(SYS_membarrier, 1 << 4, 0, 0);
    pthread_create(&other, 0, light, 0);
    for (int i = 0; i < 60; i++) {
        atomic_store_explicit(&right, 1, memory_order_relaxed);
        if (syscall(SYS_membarrier, 1 << 3, 0, 0)) return 2;
        if (!atomic_load_explicit(&left, memory_order_acquire)) enter();
        atomic_store_explicit(&right, 0, memory_order_release);
    }
    stop = 1;
    pthread_join(other, 0);
    printf("%ld\\n", clashes);
    return entries == 0;
}
"""
"""Two threads exclude each other by an asymmetric barrier, as user-space RCU does."""


def filters(pid: int) -> int:
    """The number of seccomp filters of a process."""
    return int(status_of(pid)["Seccomp_filters"])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the sentry's status is root's")
def test_runsc_has_the_filter_where_it_registers_in_vain(
    running: Start, gvisor: Gvisor, gvisor_platform: Platform
) -> None:
    """Every process of such a runsc has the filter, and no process of another."""
    run = running()
    ours = int(registers_in_vain(gvisor.runsc.date, gvisor_platform))
    here = filters(os.getpid())
    assert filters(run.runsc) == here + ours
    for name in ("gofer", "boot"):
        assert filters(run.child(name)) > here + ours
    run.end()


def test_a_workloads_own_calls_are_answered_by_the_sentry(
    gvisor: Gvisor, compile_c: Callable[[str], Path], busybox_root: Path
) -> None:
    """A workload must register before it may use the command, and sees no filter."""
    program = busybox_root / "bin/calls"
    program.write_bytes(compile_c(CALLS).read_bytes())
    program.chmod(0o755)
    done = gvisor.run(["/bin/calls"], rootfs=directory(busybox_root))
    assert done.stdout.split() == ["1", "0", "0", "Seccomp:", "0"]


def test_a_workloads_barrier_orders_its_threads(
    gvisor: Gvisor, compile_c: Callable[[str], Path], busybox_root: Path
) -> None:
    """Two threads that rely on the barrier are never both in the critical section."""
    program = busybox_root / "bin/dekker"
    program.write_bytes(compile_c(DEKKER).read_bytes())
    program.chmod(0o755)
    done = gvisor.run(["/bin/dekker"], rootfs=directory(busybox_root), timeout=60)
    assert (done.returncode, done.stdout) == (0, "0\n")

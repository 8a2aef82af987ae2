"""Independent checks of our bundles: other runtimes run them, and the schema validates them.

These differences are intended:

- An open-files limit above the caller's own: runc and crun really set it, and may not; runsc keeps
  it for its own kernel. The other runtimes get none, and all other limits.
- runsc takes CAP_NET_RAW out of every set, unless it has --net-raw. The others get none.
- The sentry's /proc/PID/status has no line for ambient capabilities.
- A process that is the first of its namespace and signals itself: Linux takes no such signal, and
  the workload goes on; the sentry delivers it. What another process of the workload's gets is the
  same.
- runc before 1.2 gives a tmpfs the mode of the folder that it covers, whatever its options say. The
  folder has the mode of the options.
- crun refuses a machine where cgroups of version 1 and 2 are both mounted: it gets a mount
  namespace that has version 2 alone.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Bundle, Gvisor, directory, tmpfs
from tests.schema import problems

CGROUP_2 = 'umount -R -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && exec crun "$@"'
JUDGES = {
    "runc": ["runc"],
    "crun": ["unshare", "--mount", "sh", "-c", CGROUP_2, "crun", "--cgroup-manager=disabled"],
}
IDENTITY = """
id -u; id -g; id -G; pwd; echo "$WORD $HOME"; hostname; grep 'Cap[^A]' /proc/self/status
ulimit -c; ulimit -Hc; cat; echo "to stderr" >&2
ls /; busybox stat -c '%A %h %u %g %n' /tmp /made; touch /made/file && ls /made; exit 7
"""
ROOT = """
id -u; grep 'Cap[^A]' /proc/self/status; touch /new && ls -l /new | cut -c1-10; umask
"""
CASES: dict[str, dict[str, Any]] = {
    "identity": {
        "args": ["sh", "-c", IDENTITY], "env": {"WORD": "a b"}, "cwd": "/usr", "user": (1000, 1001),
        "mounts": [tmpfs("/made", size="1M")],
    },
    "root": {"args": ["sh", "-c", ROOT]},
    "read-only": {"args": ["sh", "-c", "touch /new"], "readonly": True},
    "status": {"args": ["sh", "-c", "exit 137"]},
    "signal": {"args": ["sh", "-c", "busybox sh -c 'kill -SEGV $$'; echo $?"]},
    "crash": {"args": ["/bin/crash"]},
    "bytes": {"args": ["sh", "-c", "printf '\\377\\000x'; printf '\\n' >&2"]},
}  # fmt: skip

Write = Callable[..., Bundle]


def judged(judge: str, bundle: Bundle, where: Path) -> subprocess.CompletedProcess[bytes]:
    """Run the same bundle in another runtime."""
    config = bundle.spec.to_json()
    limits = config["process"]["rlimits"]
    config["process"]["rlimits"] = [one for one in limits if one["type"] != "RLIMIT_NOFILE"]
    capabilities = config["process"]["capabilities"]
    for name, some in capabilities.items():
        capabilities[name] = [one for one in some if one != "CAP_NET_RAW"]
    place = where / judge
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    argv = [*JUDGES[judge], "--root", str(where / "state"), "run", "--bundle", str(place), "judged"]
    return subprocess.run(argv, input=b"from stdin\n", capture_output=True, timeout=30)


@pytest.fixture
def root(busybox_root: Path, compile_c: Callable[[str], Path]) -> Path:
    """A small root file system, with a program that reads through a null pointer."""
    for name in ("made", "usr"):
        (busybox_root / name).mkdir()
    for name in ("made", "tmp"):
        (busybox_root / name).chmod(0o1777)
    crash = compile_c("int main(void) { return *(volatile int *)0; }")
    shutil.copy(crash, busybox_root / "bin/crash")
    return busybox_root


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: other runtimes make cgroups")
@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("name", CASES)
def test_another_runtime_has_the_same_verdict(
    gvisor: Gvisor, oci_bundle: Write, root: Path, name: str, judge: str
) -> None:
    """Both streams, the exit status or signal, and the workload's view of itself are the same."""
    case = dict(CASES[name])
    bundle = oci_bundle(case.pop("args"), rootfs=directory(root), **case)
    ours = gvisor.run_bundle(bundle, input=b"from stdin\n")
    theirs = judged(judge, bundle, root.parent)
    # Other runtimes end with 128 + S for a signal S.
    status = ours.returncode if ours.returncode >= 0 else 128 - ours.returncode
    assert status == theirs.returncode
    assert (ours.returncode < 0) == (name == "crash")
    assert ours.stdout_bytes == theirs.stdout
    assert ours.stderr_bytes == theirs.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: other runtimes make cgroups")
@pytest.mark.parametrize("judge", JUDGES)
def test_the_host_s_folders_run_in_other_runtimes_too(
    gvisor: Gvisor, oci_bundle: Write, tmp_path: Path, judge: str
) -> None:
    """The links of the root and the bind mounts work elsewhere, with one listed exception."""
    bundle = oci_bundle(["bash", "-c", "echo $(id -u) $(pwd) $(ls /usr); kill -SEGV $$"])
    ours = gvisor.run_bundle(bundle)
    theirs = judged(judge, bundle, tmp_path)
    assert ours.stdout_bytes == theirs.stdout
    assert ours.stdout.startswith("0 / bin ")
    assert (ours.returncode, theirs.returncode) == (-signal.SIGSEGV, 0)


def test_the_schema_finds_what_is_wrong(oci_bundle: Write) -> None:
    """The schema finds planted faults."""
    config = oci_bundle(["true"]).spec.to_json()
    config["process"]["user"]["uid"] = "root"
    del config["ociVersion"]
    found = "\n".join(problems(config))
    assert "$.process.user.uid" in found
    assert "'ociVersion' is a required property" in found

"""Judges from outside: the specification's schema, and other runtimes, on the bundles we write.

What differs, and why:

- An open-files limit above the caller's own is one that runc and crun really set, and may not;
  runsc keeps it for its own kernel. The judges get none.
- A process that is the first of its namespace and signals itself: Linux takes no such signal, and
  the workload goes on; the sentry delivers it. What another process of the workload's gets is the
  same.
- crun refuses a machine where cgroups of version 1 and 2 are both mounted: it gets a mount
  namespace that has version 2 alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Bundle, Gvisor, bind, directory, tmpfs
from tests.schema import problems

CGROUP_2 = 'umount -R -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && exec crun "$@"'
JUDGES = {
    "runc": ["runc"],
    "crun": ["unshare", "--mount", "sh", "-c", CGROUP_2, "crun", "--cgroup-manager=disabled"],
}
IDENTITY = """
id -u; id -g; pwd; echo "$WORD $HOME"; hostname; grep CapEff /proc/self/status
cat; echo "to stderr" >&2; ls /; ls -ld /tmp /made; touch /made/file && ls /made; exit 7
"""
CASES: dict[str, dict[str, Any]] = {
    "identity": {
        "args": ["sh", "-c", IDENTITY], "env": {"WORD": "a b"}, "cwd": "/usr", "user": (1000, 1001),
        "mounts": [tmpfs("/made", size="1M")],
    },
    "root": {"args": ["sh", "-c", "id -u; touch /new && ls -l /new | cut -c1-10; umask"]},
    "read-only": {"args": ["sh", "-c", "touch /new"], "readonly": True},
    "status": {"args": ["sh", "-c", "exit 137"]},
    "signal": {"args": ["sh", "-c", "busybox sh -c 'kill -SEGV $$'; echo $?"]},
    "bytes": {"args": ["sh", "-c", "printf '\\377\\000x'; printf '\\n' >&2"]},
}  # fmt: skip

Write = Callable[..., Bundle]


def judged(judge: str, bundle: Bundle, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """The same bundle in another runtime."""
    config = bundle.spec.to_json()
    config["process"]["rlimits"] = []
    place = folder / judge
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config))
    argv = [
        *JUDGES[judge],
        "--root",
        str(folder / "state"),
        "run",
        "--bundle",
        str(place),
        "judged",
    ]
    return subprocess.run(argv, input=b"from stdin\n", capture_output=True, timeout=30)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: other runtimes make cgroups")
@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("name", CASES)
def test_another_runtime_has_the_same_verdict(
    gvisor: Gvisor,
    oci_bundle: Write,
    busybox_root: Path,
    name: str,
    judge: str,
) -> None:
    """Output of both streams, exit status, and what the workload sees of itself."""
    (busybox_root / "made").mkdir()
    (busybox_root / "usr").mkdir()
    case = dict(CASES[name])
    bundle = oci_bundle(case.pop("args"), rootfs=directory(busybox_root), **case)
    ours = gvisor.run_bundle(bundle, input=b"from stdin\n")
    theirs = judged(judge, bundle, busybox_root.parent)
    assert ours.returncode == theirs.returncode
    assert ours.stdout_bytes == theirs.stdout
    assert ours.stderr_bytes == theirs.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: other runtimes make cgroups")
@pytest.mark.parametrize("judge", JUDGES)
def test_the_host_s_folders_run_in_other_runtimes_too(
    gvisor: Gvisor, oci_bundle: Write, tmp_path: Path, judge: str
) -> None:
    """With the links of the root and the bind mounts below it; and the listed exception."""
    bundle = oci_bundle(["bash", "-c", "echo $(id -u) $(pwd) $(ls /usr); kill -SEGV $$"])
    ours = gvisor.run_bundle(bundle)
    theirs = judged(judge, bundle, tmp_path)
    assert ours.stdout_bytes == theirs.stdout
    assert ours.stdout.startswith("0 / bin ")
    assert (ours.returncode, theirs.returncode) == (-signal.SIGSEGV, 0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"network": "host"},
        {"user": (1000, 1001), "hostname": "a", "readonly": True, "cwd": "/tmp"},
        {"mounts": [tmpfs("/made", size="1M"), bind("/usr/share", "/data")]},
    ],
)
def test_a_written_bundle_is_as_the_schema_says(oci_bundle: Write, options: dict[str, Any]) -> None:
    """The file itself. What runs is judged as well, in each test here: see conftest.py."""
    bundle = oci_bundle(["true"], **options)
    assert problems(json.loads(Path(bundle.path, "config.json").read_text())) == []


def test_the_schema_finds_what_is_wrong(oci_bundle: Write) -> None:
    """A judge that is never against anything would be none."""
    config = oci_bundle(["true"]).spec.to_json()
    config["process"]["user"]["uid"] = "root"
    del config["ociVersion"]
    found = "\n".join(problems(config))
    assert "$.process.user.uid" in found
    assert "'ociVersion' is a required property" in found

"""Names that this package has had, or that others have: what to write instead of each. Light."""

from __future__ import annotations

SETTINGS = {
    "lenient": "Write `-o in_gvisor=true` in place of --in-gvisor: tests are skipped then where "
    "runsc or the only platform is missing.",
    "nofile": "Write `ulimit -n N` before pytest, whose limit sandboxes have too. Or, in the "
    'workload: ["sh", "-c", "ulimit -n N; exec …"].',
    "reprobe": "Leave it out: each session tries each platform that it needs.",
    "sha256": "Leave it out, and pipe the workload's output through sha256sum inside where it is "
    "more than max_output keeps.",
    "shell": "Write --gvisor-keep=failed, and run the replay.sh of the failed run. For a shell in "
    "a fresh sandbox, run `pytest-gvisor run --tty -- sh`.",
}
"""Settings, by the name that options, ini keys, variables, markers and calls made theirs of."""

_RUN_THEM = "`pytest-gvisor doctor` prints the commands that mend a finding: run these."
OPTIONS = {
    "doctor": {
        "--fix": _RUN_THEM,
        "--yes": _RUN_THEM,
        "--reprobe": "Leave it out: `doctor` tries each platform again.",
    },
    "install": {
        "--from": "Leave it out for gVisor's release. A build of the Go module: `CGO_ENABLED=0 "
        "go install gvisor.dev/gvisor/runsc@v0.0.0-20260905035102-160fafc42237`, and name it with "
        "--gvisor-runsc.",
    },
    "vm": {"--boot-timeout": "Write `--timeout`, which is the deadline of the boot too."},
    "run": {
        "-e": "Write --env NAME=VALUE.",
        "-it": "Write --tty.",
        "-t": "Write --tty.",
        "-u": "Write --user UID.",
        "-v": "Write --mount SOURCE:TARGET.",
        "-w": "Write --cwd DIR.",
        "--keep": "Write the command as a test, with gvisor.run, and --gvisor-keep=all for pytest.",
        "--nofile": "Write `ulimit -n N` before it: sandboxes have that limit too.",
        "--volume": "Write --mount SOURCE:TARGET.",
    },
    "cache prune": {"--no-docker": "Leave it out: `cache prune` leaves docker's images alone."},
    "init": {
        "--ci": "Write `pytest-gvisor init github` or `pytest-gvisor init gitlab`.",
        "--force": "Remove the file first.",
    },
}
"""Options of each command of ``pytest-gvisor``."""

_SHOWN = "Copy what docs/ci.md shows for it."
FILES = {"devcontainer": _SHOWN, "nox": _SHOWN, "tox": _SHOWN}
"""Tools for which ``pytest-gvisor init`` has written a file."""

IMAGES = {
    "build": "Give gvisor_image what `docker build --quiet FOLDER` prints.",
    "remote": "Give gvisor_image a file that `docker save IMAGE -o image.tar` has written there.",
}
"""The method and the argument that ``gvisor_image`` had."""

LAUNCHER = "Write `with pytest_gvisor.session() as gvisor:`, which has one."

_CAPTURED = "Leave it out: stdout and stderr are texts, stdout_bytes and stderr_bytes are bytes."
_MOUNTS = 'Write mounts={"src": "/app", "data": "/data:rw"}.'
OF_OTHERS = {
    "capture_output": _CAPTURED, "encoding": _CAPTURED, "stderr": _CAPTURED, "stdout": _CAPTURED,
    "text": _CAPTURED, "universal_newlines": _CAPTURED, "volume": _MOUNTS, "volumes": _MOUNTS,
    "shell": 'Write ["sh", "-c", "…"] to have a shell take a string apart.',
    "stdin": "Write input=….", "environment": "Write env=….", "working_dir": "Write cwd=….",
}  # fmt: skip
"""Arguments of a call that subprocess, docker and its SDK have."""

OF_SANDBOXES = frozenset({"exec", "forward", "popen", "put"})
"""Methods of a warm sandbox, which a `Gvisor` is asked for too; subprocess has a ``Popen``."""

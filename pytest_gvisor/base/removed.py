"""Names that this package has had: each with a sentence that says what to write now. Light."""

from __future__ import annotations

SETTINGS = {
    "lenient": "Write `-o in_gvisor=true` in place of --in-gvisor: tests are skipped then where "
    "runsc or the only platform is missing.",
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
    "images prune": {"--no-docker": "Leave it out: `images prune` leaves docker's images alone."},
    "init": {"--ci": "Write `pytest-gvisor init github` or `pytest-gvisor init gitlab`."},
}
"""Options of each command of ``pytest-gvisor``."""

LAUNCHER = "Write `with pytest_gvisor.session() as gvisor:`, which has one."

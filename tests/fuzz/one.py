"""Targets under atheris: imported with its eyes on every branch of the package, and forked.

Such an import takes four seconds of a processor, once for all targets.
"""

import os
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pytest_gvisor"]):
    from tests.fuzz.targets import TARGETS, in_time, judged

    # What a function imports is seen too, and is no part of an input's second.
    for seed in sorted(Path(__file__).parent.glob("seeds/*/*")):
        judged(TARGETS[seed.parent.name], seed.read_bytes())


def start(name: str, options: list[str], log: Path) -> int:
    """Fork a process that runs a target with libFuzzer's options, and writes to ``log``.

    Returns its process id. For a caller without threads.
    """
    if pid := os.fork():
        return pid
    try:
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for stream in (1, 2):
            os.dup2(fd, stream)
        target = TARGETS[name]
        atheris.Setup(["fuzz", *options], lambda data: in_time(target, data))
        atheris.Fuzz()
    finally:
        os._exit(70)  # libFuzzer ends the process by itself

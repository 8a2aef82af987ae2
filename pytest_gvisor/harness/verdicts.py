"""Verdicts on platforms that cost a run, kept for an hour in the sessions' folder.

A verdict is kept only if it is bad and cannot be seen without a run (`causes.LASTING`). A kvm that
hangs would cost each session its deadline, and a build that is broken stays so. The key is the
binary with its sidecars, the boot, the platform, and the state of KVM's device. A run that hung
says nothing of a longer deadline than it had.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import time

from pytest_gvisor.guest.checked_json import loads
from pytest_gvisor.runsc.causes import LASTING, Cause
from pytest_gvisor.runsc.platforms import KVM_DEVICE, Availability
from pytest_gvisor.sessions import boot_notes, session_folder
from pytest_gvisor.sessions.boot_notes import Note
from pytest_gvisor.settings import Platform

_LONGEST = 3600.0
"""Seconds for which a verdict is kept."""

_AGAIN = "This was found out earlier; `pytest-gvisor doctor` tries again."


def encode(verdict: Availability) -> str:
    """Encode a verdict as text."""
    # JSON has no number for the deadline of a verdict that holds for any.
    deadline = verdict.deadline if math.isfinite(verdict.deadline) else None
    return json.dumps({**dataclasses.asdict(verdict), "deadline": deadline})


def decode(text: str) -> Availability | None:
    """Decode the verdict in a text; None if it holds none."""
    try:
        fields = loads(text)
        return Availability(
            platform=Platform(fields["platform"]),
            cause=Cause(fields["cause"]),
            detail=str(fields["detail"]),
            next_step=str(fields["next_step"]),
            deadline=math.inf if fields["deadline"] is None else float(fields["deadline"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def recall(fingerprint: str, platform: Platform, deadline: float) -> Availability | None:
    """Return the bad verdict of an earlier session of this boot, or None.

    It has to hold for a probe of ``deadline`` seconds.
    """
    boot_notes.sweep(session_folder.base_folders())
    text = _note(fingerprint, platform).read() or ""
    moment, _, verdict = text.partition(" ")
    found = decode(verdict)
    if found is None or found.platform is not platform or not _lasts(found):
        return None
    if not (moment.isdecimal() and _now() - _LONGEST <= int(moment) <= _now()):
        return None
    if not found.holds(deadline):
        return None
    return dataclasses.replace(found, next_step=f"{found.next_step} {_AGAIN}".lstrip())


def keep(fingerprint: str, verdict: Availability) -> None:
    """Keep a bad verdict for later sessions; after a failed write they find it anew."""
    if _lasts(verdict):
        _note(fingerprint, verdict.platform).write(f"{_now()} {encode(verdict)}")


def forget(fingerprint: str, platform: Platform) -> None:
    """Remove a kept verdict."""
    _note(fingerprint, platform).remove()


def _lasts(verdict: Availability) -> bool:
    # kvm hangs for good on some machines; another platform that was late was slow, this time. A
    # look that hung is no run: each session looks anew.
    if verdict.cause is Cause.PROBE_HUNG:
        return verdict.platform is Platform.KVM and math.isfinite(verdict.deadline)
    return verdict.cause in LASTING


def _note(fingerprint: str, platform: Platform) -> Note:
    folder, device = session_folder.base_folder(), None
    if platform is Platform.KVM:
        with contextlib.suppress(OSError):
            found = os.stat(KVM_DEVICE)
            device = (found.st_ino, found.st_ctime_ns)  # a change of the permissions changes it
    digest = hashlib.sha256(repr((fingerprint, device, os.getgroups())).encode()).hexdigest()
    return Note(folder=folder, kind="v", digest=digest, name=platform.value)


def _now() -> int:
    """Return the seconds since the boot: a note is of one boot, and clocks are set."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))

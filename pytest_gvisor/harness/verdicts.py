"""Verdicts on platforms that cost a run, kept until the next boot in the sessions' folder.

Only what is bad and cannot be seen without a run is kept (`causes.LASTING`): a kvm that hangs
would cost each session its deadline, and a build that is broken stays so. The key is the binary
with its sidecars, the boot, and the platform; a run that hung says nothing of a longer deadline
than it had.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import secrets

from pytest_gvisor.guest.checked_json import loads
from pytest_gvisor.runsc.causes import LASTING, Cause
from pytest_gvisor.runsc.platforms import Availability
from pytest_gvisor.sessions import private, session_folder
from pytest_gvisor.settings import Platform

_MAX = 64 * 1024
_NAME = re.compile(r"v-[0-9a-f]{16}-([0-9a-f-]{13})-\w+\.json(\.[0-9a-f]{8})?", re.ASCII)
_HINT = "This was found out earlier; --gvisor-reprobe tries again."


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


def boot_id() -> str:
    """Return the kernel's name for this boot; ``""`` if it has none, and nothing is kept."""
    with (
        contextlib.suppress(OSError),
        open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file,
    ):
        return file.read(100).strip()
    return ""


def recall(fingerprint: str, platform: Platform, deadline: float) -> Availability | None:
    """Return the bad verdict of an earlier session of this boot, or None.

    It has to hold for a probe of ``deadline`` seconds.
    """
    path = _path(fingerprint, platform)
    if path is None:
        return None
    sweep()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        if os.fstat(fd).st_uid != os.geteuid():
            return None
        found = decode(file.read(_MAX).decode("utf-8", "replace"))
    if found is None or found.platform is not platform or not _lasts(found):
        return None
    if not found.holds(deadline):
        return None
    return dataclasses.replace(found, next_step=f"{found.next_step} {_HINT}".strip())


def keep(fingerprint: str, verdict: Availability) -> None:
    """Keep a bad verdict for later sessions; after a failed write they find it anew."""
    path = _path(fingerprint, verdict.platform)
    if path is None or not _lasts(verdict):
        return
    new = f"{path}.{secrets.token_hex(4)}"
    with contextlib.suppress(OSError):
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(encode(verdict))
            os.replace(new, path)
        except BaseException:
            os.unlink(new)
            raise


def forget(fingerprint: str, platform: Platform) -> None:
    """Remove a kept verdict."""
    path = _path(fingerprint, platform)
    if path is not None:
        with contextlib.suppress(OSError):
            os.unlink(path)


def sweep() -> None:
    """Remove the verdicts of earlier boots."""
    boot = boot_id()
    for base in session_folder.base_folders() if boot else ():
        with contextlib.suppress(OSError):
            for name in os.listdir(base):
                match = _NAME.fullmatch(name)
                if match and match[1] != boot[:13]:
                    os.unlink(os.path.join(base, name))


def _lasts(verdict: Availability) -> bool:
    # kvm hangs for good on some machines; another platform that was late was slow, this time. A
    # look that hung is no run: each session looks anew.
    if verdict.cause is Cause.PROBE_HUNG:
        return verdict.platform is Platform.KVM and math.isfinite(verdict.deadline)
    return verdict.cause in LASTING


def _path(fingerprint: str, platform: Platform) -> str | None:
    boot = boot_id()
    if not boot:
        return None
    base = session_folder.base_folder()
    os.close(private.open_private(base))
    return os.path.join(base, f"v-{fingerprint[:16]}-{boot[:13]}-{platform.value}.json")

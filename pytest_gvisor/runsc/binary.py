"""`Runsc`: a binary that was found, checked and asked for its features.

Everything is read when the value is made. So it can be made before privileges change, and handed
on: nothing here looks at a path again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_gvisor.base.errors import InsecureRunsc, stage
from pytest_gvisor.runsc import features, locate, sidecars
from pytest_gvisor.runsc.answers import Answers, keep, recall
from pytest_gvisor.sessions import places
from pytest_gvisor.trace import points

if TYPE_CHECKING:
    from pytest_gvisor.trace.programs import Programs
    from pytest_gvisor.trace.recorder import Recorder


_CHANGED = "it changed after it was checked"


@dataclass(frozen=True, kw_only=True)
class Runsc(features.Features, locate.CheckedBinary):
    """A validated runsc. Execute it by ``fd``, which is the checked file."""

    sha256: str
    """The SHA-256 of the file, in hexadecimal."""

    _closer: contextlib.ExitStack = dataclasses.field(repr=False, compare=False)
    _same: set[int] = dataclasses.field(default_factory=set, repr=False, compare=False)
    """The ctimes at which the content was read again, and was the one that was checked."""

    @classmethod
    def find(cls, explicit: str | None = None) -> Runsc:
        """Find the runsc of `locate.find`, and read its features.

        Raises what `locate.find` raises, `RunscFailed` where it cannot be asked what it is, and
        `UnwantedRelease` where it is too old.
        """
        return cls.of(locate.find(explicit))

    @classmethod
    def of(cls, checked: locate.CheckedBinary) -> Runsc:
        """Read the features of ``checked``, and take over its descriptor, even on an error.

        Raises `RunscFailed` if it does not answer, or `UnwantedRelease` if it is too old. Raises
        `InsecureRunsc` if it changed meanwhile, or `LaunchError` if a resource is missing.
        """
        with contextlib.ExitStack() as closer:
            closer.callback(checked.close)
            answers = kept = recall(checked.identity)
            if answers is None:
                texts = features.ask(checked)
                answers = Answers(sha256=_sha256(checked.path, checked.fd), texts=texts)
            known = features.parse(checked, answers.texts)
            runsc = cls(
                **vars(checked),
                **vars(known),
                sha256=answers.sha256,
                _closer=contextlib.ExitStack(),
            )
            runsc.check_unchanged()
            if kept is None:
                keep(checked.identity, answers)
            runsc._closer.push(closer.pop_all())
        places.note_runsc(runsc.path)
        return runsc

    @functools.cached_property
    def points(self) -> dict[str, frozenset[str]]:
        """The points of its sentry, with their fields. The first traced run asks the binary once.

        Raises what `features.ask` raises.
        """
        return points.parse(*features.ask(self, [("trace", "metadata")]))

    @functools.cached_property
    def unsupported(self) -> dict[int, str]:
        """The system calls that its sentry does not implement, by number. Asked for as `points`."""
        return points.unsupported(*features.ask(self, [("help", "syscalls", "-format", "json")]))

    def recorder(self, *, warm: bool, values: bool, first: int = 1) -> Recorder | Programs:
        """Return the recorder of a traced run, or of the programs in a ``warm`` sandbox.

        It keeps variables with their ``values``, or without. ``first`` is the first process.

        Raises `TraceError`, and what `points` raises.
        """
        from pytest_gvisor.trace import programs, recorder  # noqa: PLC0415 -- few runs are traced

        known, version, more = self.points, self.version, self.unsupported
        if warm:
            return programs.Programs(known, version, values=values, unsupported=more)
        return recorder.Recorder(known, version, first, values=values, unsupported=more)

    @functools.cached_property
    def uses_sidecars(self) -> bool:
        """Whether runsc looks for programs beside itself, whether they exist or not."""
        return sidecars.looked_for(self.flags, self.date)

    @property
    def enforces_release(self) -> bool:
        """Whether to refuse a sandbox whose sentry has another build label."""
        return self.sidecars.present and sidecars.ONE_RELEASE in self.flags

    @functools.cached_property
    def fingerprint(self) -> str:
        """``sha256``, or with sidecars a digest of that and of their states.

        A sidecar's state stands for its content, as reading all of them costs more than a start.
        """
        if not self.sidecars.present:
            return self.sha256
        text = repr((self.sha256, sorted(self.sidecars.states.items())))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def check_unchanged(self) -> None:
        """Raise `InsecureRunsc` if the open file was written to, or its mode or owner has changed.

        Its names do not count: after a package upgrade, the checked file still runs. A
        release that has sidecars is refused after an upgrade, for it would start the new ones, or
        none. Raises `LaunchError` where something has to be read again, and cannot be.
        """
        self._check_file()
        if self.uses_sidecars:
            self._check_sidecars()

    def _check_sidecars(self) -> None:
        now = self._sidecars_now()
        if now is None and self.sidecars.present:
            why = f"{_CHANGED}: it was replaced or removed, and would boot another sentry"
            raise sidecars.refusal(self.path, why, os.fstat(self.fd), self.path)
        if now is None:
            return
        if now.shared:
            why = f"others could put {places.RUNSC_FOLDER} beside it, and it would run their sentry"
            raise sidecars.refusal(self.path, f"{why}: {now.shared}", os.fstat(self.fd), self.path)
        if path := now.changed(self.sidecars):
            raise sidecars.refusal(path, _CHANGED, _stat(path), self.path)

    def _sidecars_now(self) -> sidecars.Sidecars | None:
        with stage("runsc", f"what lies beside {self.path} cannot be looked at"):
            try:
                return sidecars.again(self.fd, self._trust)
            except InsecureRunsc as error:
                raise InsecureRunsc(
                    error.path,
                    f"{_CHANGED}: {error.reason}",
                    mode=error.mode,
                    owner=error.owner,
                    next_step=error.next_step,
                ) from None

    def _check_file(self) -> None:
        try:
            info = os.fstat(self.fd)
        except OSError:
            raise InsecureRunsc(self.path, "its descriptor is closed") from None
        now = sidecars.State.of(info)
        same = now._replace(ctime_ns=self.identity.ctime_ns) == self.identity
        if same and now.ctime_ns != self.identity.ctime_ns and now.ctime_ns not in self._same:
            # A new link or a removal is a new ctime (inode(7)), and changes nothing that runs. A
            # write whose mtime was put back is one too: the content tells which it was.
            same = _sha256(self.path, self.fd) == self.sha256
            if same:
                self._same.add(now.ctime_ns)
        if not same:
            raise sidecars.refusal(self.path, _CHANGED, info)

    def close(self) -> None:
        """Close the descriptor. A second call does nothing."""
        self._closer.close()


def _stat(path: str) -> os.stat_result | None:
    with contextlib.suppress(OSError):
        return os.stat(path)
    return None


def _sha256(path: str, fd: int) -> str:
    # A description of its own: reading through ``fd`` would move the offset that others share.
    with (
        stage("runsc", f"{path} cannot be read"),
        open(f"/proc/self/fd/{fd}", "rb", buffering=0) as file,
    ):
        return hashlib.file_digest(file, "sha256").hexdigest()

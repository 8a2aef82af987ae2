"""Exceptions of the handlers of signals, amid the messages of a warm sandbox."""

import signal
import warnings

from pytest_gvisor import Gvisor, PytestGvisorWarning
from tests.runsc.conftest import PATIENCE


class _Rang(Exception):
    """The exception of the handler of a signal, such as that of pytest-timeout."""


def _ring(*_: object) -> None:
    raise _Rang


def test_an_exception_of_a_signal_s_handler_leaves_a_sandbox_that_works(gvisor: Gvisor) -> None:
    """At 400 moments of a message and its answer: the next message has an answer, perhaps anew."""
    rang, before = 0, signal.signal(signal.SIGALRM, _ring)
    try:
        with gvisor.sandbox() as sandbox, warnings.catch_warnings():
            warnings.simplefilter("ignore", PytestGvisorWarning)
            for moment in range(1, 401):
                try:
                    signal.setitimer(signal.ITIMER_REAL, moment * 5e-6)
                    sandbox.ping()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except _Rang:
                    rang += 1
                sandbox.ping(timeout=PATIENCE)
            assert sandbox.exec(["echo", "hi"]).stdout == "hi\n"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert rang > 40

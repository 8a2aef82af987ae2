"""The relay as the first process of a sandbox, whose workload is in a second container.

Started as ``python3 -I -S -E relay_process.py PLACE…``. It writes a byte when it listens. Needs
Python 3.8 and the standard library alone.
"""

import contextlib
import os
import signal
import socket
import sys

if not __package__:
    # A program: the package is not installed here, and only this folder of it is shown.
    for name in ("pytest_gvisor", "pytest_gvisor.guest"):
        sys.modules[name] = package = type(sys)(name)
        package.__path__ = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]

from pytest_gvisor.guest.warm import inner_relay
from pytest_gvisor.guest.wire.mux import MuxError


def main() -> None:
    """Relay until the host is gone, and then wait: the sandbox would end with this process."""
    listeners = inner_relay.listen(sys.argv[1:])
    os.write(1, b"\n")
    relay = inner_relay.InnerRelay(socket.socket(fileno=inner_relay.LINK), listeners)
    with contextlib.suppress(OSError, MuxError):
        relay.serve()
    relay.close()
    for _entry, listener in listeners:
        listener.close()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()

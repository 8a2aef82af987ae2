"""A headless Chromium, driven over two pipes by the DevTools protocol; nothing else is needed.

https://chromedevtools.github.io/devtools-protocol/: each message is JSON, followed by a NUL byte.
"""

import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DEADLINE = 60.0
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip


def program() -> str | None:
    """The browser of this machine; a snap does not count, because it sees no /tmp of tests."""
    found = filter(None, map(shutil.which, NAMES))
    return next((path for path in found if not _is_snap(path)), None)


def only_a_snap() -> bool:
    """Whether this is Ubuntu, which only has a snap of chromium; elsewhere setup installs one."""
    with open("/etc/os-release", encoding="utf-8") as file:
        return program() is None and "ID=ubuntu\n" in file.read().splitlines(keepends=True)


def _is_snap(path: str) -> bool:
    """Whether a program is snap's own, or a script that starts it."""
    with open(path, "rb") as file:
        return os.path.basename(os.path.realpath(path)) == "snap" or b"/snap/bin/" in file.read(
            4096
        )


def _high_pipe() -> tuple[int, int]:
    """A pipe that is not in the way of the browser's own descriptors."""
    low = os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in low]
    for end in low:
        os.close(end)
    return ends[0], ends[1]


class Browser:
    """One browser with one page."""

    def __init__(self, path: str, profile: Path) -> None:
        (ours_read, theirs_write), (theirs_read, ours_write) = _high_pipe(), _high_pipe()
        # It speaks on descriptors 3 and 4 of its own: a shell puts ours there.
        script = f'exec "$@" 3<&{theirs_read} 4>&{theirs_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "sh", path, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(theirs_read, theirs_write), start_new_session=True,
            env={**os.environ, "HOME": str(profile)},
        )  # fmt: skip
        os.close(theirs_read)
        os.close(theirs_write)
        self._read, self._write = ours_read, ours_write
        self._buffer = b""
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None

    def start(self) -> None:
        """Get hold of the page."""
        targets = self.call("Target.getTargets")["targetInfos"]
        (page,) = (target for target in targets if target["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """One command and its answer; events that come meanwhile are kept."""
        number = next(self._numbers)
        message: dict[str, object] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self._read, 1 << 20) if ready else b""
            assert data, "the browser does not answer"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def open(self, path: Path) -> None:
        """Load a file and wait until it is there."""
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def run(self, script: str) -> Any:
        """The value of a script in the page, which must be JSON."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True,
                           awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a condition holds in the page; `DEADLINE` bounds the wait."""
        self.run(
            f"new Promise(done => {{ const look = () => {condition} ? done(1) "
            ": setTimeout(look, 10); look(); })"
        )

    def press(self, *keys: str) -> None:
        """Press keys, as a keyboard does."""
        codes = {
            "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowUp": 38, "ArrowDown": 40,
            "ArrowRight": 39,
        }  # fmt: skip
        for key in keys:
            text = {"Enter": "\r", " ": " "}.get(key, "")
            shared = {"key": key, "code": "Space" if key == " " else key,
                      "windowsVirtualKeyCode": codes[key]}  # fmt: skip
            self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **shared)
            self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def requests(self) -> list[str]:
        """The addresses that the page has asked for."""
        sent = (e for e in self.events if e.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """The exceptions of the page, and the browser's refusals, such as by the page's policy."""
        told = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [json.dumps(event) for event in self.events if event.get("method") in told]

    def close(self) -> None:
        """End it."""
        os.close(self._write)
        os.close(self._read)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()

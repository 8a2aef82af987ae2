"""A program that repeats a kept run, and ends with runsc's status.

Its child takes the same steps as the child of the run: it opens the sources anew, without links,
and binds them. The child and its descendants get SIGKILL when this program ends in any way. If this
program is killed by SIGKILL, the folder of the run stays, but no process and no mount.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import tempfile
from typing import Any

from pytest_gvisor.programs import child, leftovers, linux, paths, proc
from pytest_gvisor.programs.order import Order

ORDER = "order.json"
STATE = "/@state"
"""The placeholder in a kept order for the run's folder, which is made anew."""

KEPT = "/@kept"
"""The placeholder for the folder of the kept run, which has copies of the run's own files."""

_PATIENCE = 10.0
"""Seconds for killed processes to end: the threads of a fork bomb end one by one."""

_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def moved(value: Any, old: str, new: str) -> Any:
    """Return a value of JSON with another folder in front of each path in the old one."""
    if isinstance(value, dict):
        return {name: moved(each, old, new) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [moved(each, old, new) for each in value]
    if isinstance(value, str) and f"{value}/".startswith(f"{old}/"):
        return new + value[len(old) :]
    return value


def prepare(kept: str, state: str) -> Order:
    """Make the folder of a run in ``state``, and return the order of it."""
    with open(os.path.join(kept, ORDER), encoding="utf-8") as file:
        told = moved(moved(json.load(file), STATE, state), KEPT, kept)
    order = Order.from_json(json.dumps(told).encode())
    with open(os.path.join(kept, "bundle", "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    root = config["root"]
    root["path"] = os.path.join(kept, "bundle", root["path"])
    for name in ("root", "bundle", "sources"):
        os.mkdir(os.path.join(state, name), 0o700)
    for source in order.sources:
        if not source.target.startswith(f"{state}/sources/"):
            continue
        if os.path.isdir(source.path):
            os.mkdir(source.target, 0o700)
        else:
            os.close(os.open(source.target, os.O_CREAT | os.O_CLOEXEC, 0o600))
        name = os.path.basename(source.target)
        shown = root if name == "root" else config["mounts"][int(name)]
        shown["path" if name == "root" else "source"] = source.target
    for namespace in config["linux"]["namespaces"]:
        if order.netns and namespace["type"] == "network":
            namespace["path"] = order.netns
    with open(os.path.join(state, "bundle", "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    return order


def run(order: Order) -> int:
    """Run the order as a child; return the status for a shell."""
    linux.set_child_subreaper()
    parent = os.getpid()
    executable = os.open(order.argv[0], os.O_RDONLY | os.O_CLOEXEC)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if not pid:
        child.become(order, (executable, 0, 1, 2), parent=parent, error_pipe=writer)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as report:
        if failed := report.read():
            print(f"replay: {failed}", file=sys.stderr)
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        # When runsc has ended, its gofer and its sentry become children of this subreaper.
        for number in _ENDS:
            signal.signal(number, signal.SIG_IGN)
        leftovers.kill_children(patience=_PATIENCE)
    return status if status >= 0 else 128 - status


def _place() -> str:
    """Return the folder for temporary files, without links.

    Exits if another user could put a folder, and so a bundle, in the place of one that is made
    there.
    """
    place = os.path.realpath(tempfile.gettempdir())  # the child opens places without links
    trusted = {0, os.geteuid()} - {strangers := proc.strangers_uid()}
    names = place.split("/")
    # From the top: nobody can exchange a folder in one that was found good.
    for number in range(1, len(names) + 1):
        path = "/".join(names[:number]) or "/"
        info = os.lstat(path)
        is_open = info.st_mode & 0o022 and not info.st_mode & stat.S_ISVTX
        # In a user namespace, root may have the number of strangers.
        is_root_s = info.st_uid == strangers and path in {"/", *paths.SHARED}
        if is_open or not (info.st_uid in trusted or is_root_s):
            sys.exit(f"replay: others can replace what is in {path}: set TMPDIR")
    return place


def main(arguments: list[str]) -> int:
    """Repeat the run that was kept in the folder ``arguments[0]``."""
    for number in _ENDS:
        signal.signal(number, lambda caught, _frame: sys.exit(128 + caught))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, no child could be waited for
    state = tempfile.mkdtemp(dir=_place())
    try:
        return run(prepare(os.path.realpath(arguments[0]), state))
    finally:
        shutil.rmtree(state, ignore_errors=True)

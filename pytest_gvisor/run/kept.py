"""A kept run: its bundle, logs and input, and a script that repeats it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import shutil

from pytest_gvisor.programs import paths, replay
from pytest_gvisor.programs.order import Order
from pytest_gvisor.run.request import Record, Workspace

_SCRIPT = """\
#!/bin/sh
# Repeats one run of pytest-gvisor with the bundle beside this script; ends with runsc's status.
# It is this command, in a namespace where the sources of its mounts are bound first:
#   {command}
# With an allow-list, the run had a relay to those hosts. The repetition has no network.
# It has no deadline either, and no limits on memory, processes and processors.
# The sentry writes to a file at an offset of its own, so two streams sent to one file overwrite
# each other: pipe the output (replay.sh 2>&1 | cat).
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
exec {program} "$here" < "$here/stdin"
"""


def keep(folder: str, workspace: Workspace, record: Record) -> None:
    """Copy the parts of a run to the new ``folder``, and leave out missing ones.

    Its path had no link at the start. Where others can change names beside it, they may put another
    folder or a link in its place. So the files are written by its descriptor. Raises `OSError`,
    also if a folder of that name is there, or its path has a link now.
    """
    paths.check_way(folder)
    os.makedirs(folder, 0o700)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "another user has put a folder there", folder)
        _fill(f"/proc/self/fd/{fd}", folder, workspace, record)
    finally:
        os.close(fd)
    record.kept = folder


def _fill(opened: str, folder: str, workspace: Workspace, record: Record) -> None:
    for name in ("log", "panic"):
        with contextlib.suppress(OSError):
            shutil.copyfile(workspace.path(name), os.path.join(opened, name))
    if workspace.logs is not None:
        workspace.logs.keep(os.path.join(opened, "logs"))
    _copy_bundle(opened, folder, workspace, record)
    order = _copy_order(opened, workspace, record)
    with open(os.path.join(opened, "stdin"), "wb") as stdin:
        stdin.write(record.input)
    script = os.path.join(opened, "replay.sh")
    command = shlex.join(replay.moved(order.argv, workspace.folder, "$state"))
    program = shlex.join(paths.command(os.path.abspath(replay.__file__)))
    with open(script, "w", encoding="utf-8") as file:
        # A comment ends with its line.
        file.write(_SCRIPT.format(command=command.replace("\n", "\\n"), program=program))
    os.chmod(script, 0o700)


def _copy_bundle(opened: str, folder: str, workspace: Workspace, record: Record) -> None:
    """Write the bundle as its user knows it: with the host's paths, not with the places of the run.

    The root file system is copied if the session has made it. It has links to folders of the host,
    which a later pytest would follow if no conftest.py forbade that.
    """
    assert record.spec is not None
    bundle = os.path.join(opened, "bundle")
    os.makedirs(bundle, 0o700, exist_ok=True)
    config = record.spec.to_json()
    root = config["root"]["path"]
    if paths.within(root, workspace.shared):
        shutil.copytree(root, os.path.join(bundle, "rootfs"), symlinks=True)
        config["root"]["path"] = "rootfs"
        with open(os.path.join(bundle, "conftest.py"), "w", encoding="utf-8") as file:
            file.write('collect_ignore = ["rootfs"]\n')
    with open(os.path.join(bundle, "config.json"), "w", encoding="utf-8") as file:
        json.dump(replay.moved(config, workspace.folder, folder), file, indent=2)


def _copy_order(opened: str, workspace: Workspace, record: Record) -> Order:
    """Write the order for another run of the bundle, with the files that were the run's own."""
    assert record.order is not None
    words = list(record.argv)
    for name in ("--log", "--panic-log", "--debug-log", "--pod-init-config"):
        with contextlib.suppress(ValueError):
            place = words.index(name)
            del words[place : place + 2]
    if "restore" in words:
        # The image of the saved sandbox goes with the session, so the repetition starts afresh.
        place = words.index("restore")
        words[place : place + 3] = ["run"]
    sources = []
    relay = workspace.path("relay")
    # The relay of an allow-list is not repeated, for it belongs to the session.
    for source in [one for one in record.order.sources if not paths.within(one.target, relay)]:
        path = source.path
        if paths.within(path, workspace.folder):
            name = os.path.basename(path)
            shutil.copyfile(path, os.path.join(opened, name))
            path = f"{replay.KEPT}/{name}"
        sources.append(source._replace(path=path))
    order = record.order._replace(
        argv=tuple(words), cgroups=(), sources=tuple(sources), link=False, first=()
    )
    told = json.loads(order.to_json())
    with open(os.path.join(opened, replay.ORDER), "w", encoding="utf-8") as file:
        json.dump(replay.moved(told, workspace.folder, replay.STATE), file, indent=2)
    return order

"""A kept run: its bundle, logs and input, and a script that repeats it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil

from pytest_gvisor.programs.order import Order
from pytest_gvisor.programs.paths import below
from pytest_gvisor.run.project import HIDING
from pytest_gvisor.run.request import Record, Workspace
from pytest_gvisor.runsc.command import SAFE_FLAGS, shell_line

_SCRIPT = """\
#!/bin/sh
# Repeats one run of pytest-gvisor with the bundle beside this script; ends with runsc's status.
# The sentry writes to a file at an offset of its own, so two streams sent to one file overwrite
# each other: pipe the output (replay.sh 2>&1 | cat).
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
state=
over=
end() {{
    trap '' HUP INT TERM
    if test -z "$over" && test -n "${{!-}}"; then
        # The gofer and the sandbox die with runsc.
        kill -KILL "$!" 2>/dev/null || :
        wait
    fi
    rm -rf "$state"
}}
trap end EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
state=$(mktemp -d)
# A shell obeys a trap while it waits, and not before a command of the foreground has ended.
{command} < "$here/stdin" &
status=0
wait "$!" || status=$?
over=yes
exit "$status"
"""


def keep(folder: str, workspace: Workspace, record: Record) -> None:
    """Copy the parts of a run to ``folder``, and leave out missing ones."""
    os.makedirs(folder, 0o700, exist_ok=True)
    for name in ("log", "panic"):
        with contextlib.suppress(OSError):
            shutil.copyfile(workspace.path(name), os.path.join(folder, name))
    with contextlib.suppress(OSError):
        shutil.copytree(workspace.path("logs"), os.path.join(folder, "logs"))
    _copy_bundle(folder, workspace)
    with open(os.path.join(folder, "stdin"), "wb") as stdin:
        stdin.write(record.input)
    script = os.path.join(folder, "replay.sh")
    assert record.order is not None
    with open(script, "w", encoding="utf-8") as file:
        file.write(_SCRIPT.format(command=_command(folder, workspace, record, record.order)))
    os.chmod(script, 0o700)
    record.kept = folder


def _copy_bundle(folder: str, workspace: Workspace) -> None:
    """Copy the bundle, with its root file system if that lives in the session folder."""
    bundle = os.path.join(folder, "bundle")
    os.makedirs(bundle, 0o700, exist_ok=True)
    with open(os.path.join(workspace.path("bundle"), "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    root = config["root"]["path"]
    if below(root, workspace.shared):
        shutil.copytree(root, os.path.join(bundle, "rootfs"), symlinks=True)
        config["root"]["path"] = "rootfs"
    for mount in config["mounts"]:
        if mount.get("source") == workspace.path(HIDING):
            mount["source"] = os.path.join(folder, HIDING)
            shutil.copyfile(workspace.path(HIDING), mount["source"])
    for namespace in config["linux"]["namespaces"]:
        if namespace.get("path") == workspace.netns:
            namespace["path"] = os.path.join(folder, "netns")
    with open(os.path.join(bundle, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)


def _command(folder: str, workspace: Workspace, record: Record, order: Order) -> str:
    """Return the run's shell command, with the script's folders in place of its own."""
    words = list(record.argv)
    for name in ("--log", "--panic-log", "--debug-log", "--pod-init-config"):
        with contextlib.suppress(ValueError):
            place = words.index(name)
            del words[place : place + 2]
    if "restore" in words:
        # The image is gone with the session: the first process starts anew.
        place = words.index("restore")
        words[place : place + 3] = ["run"]
    # Here runsc runs without the child that protects what is bound read-only. The gofer opens files
    # for a sentry of another id, which a namespace of one id has not.
    if not order.own_users and not set(SAFE_FLAGS) & set(words):
        words[1:1] = SAFE_FLAGS
    places = {
        workspace.path("root"): '"$state"',
        workspace.path("bundle"): '"$here"/bundle',
    }
    line = shell_line(words, order.env, places)
    # The child's own user namespace, in which it may mount: see programs/child.py.
    unshare = "unshare --map-root-user" if order.own_users else "unshare"
    if order.hide_net_sysctls:
        return unshare + _with_network(folder, workspace, line)
    # Releases from 2026-08 on bind a network namespace in the state folder. With a mount namespace
    # of its own that is gone with runsc, however it ends. With --rootless runsc makes one itself.
    return line if "--rootless" in words else f"{unshare} -m {line}"


def _with_network(folder: str, workspace: Workspace, line: str) -> str:
    """Return the rest of an ``unshare`` command that makes the sandbox's own network.

    See programs/child.py for why runsc is shown no /proc/sys/net. It gets a namespace whose
    loopback is up, at the path that config.json has.
    """
    steps = 'mount -t tmpfs none /proc/sys/net && exec "$@"'
    if os.path.lexists(workspace.netns):
        netns = shlex.quote(os.path.join(folder, "netns"))
        make = f": > {netns} && ip link set lo up"
        steps = f"{make} && mount --bind /proc/self/ns/net {netns} && {steps}"
        return f" -n -m sh -c {shlex.quote(steps)} sh {line}"
    return f" -m sh -c {shlex.quote(steps)} sh {line}"

"""A program that asks a KVM device for its features, as a process that may be killed.

``python -I -S ask_kvm.py DEVICE`` prints one JSON object: ``step``, the one that failed or
``""``, and ``errno`` or, for the API's version, ``value``. Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable

# include/uapi/linux/kvm.h
KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_CREATE_VCPU = 0xAE41
KVM_API_VERSION = 12

Answer = dict[str, str | int]


def ask(device: str, ioctl: Callable[[int, int, int], int] = fcntl.ioctl) -> Answer:
    """Take the steps of runsc in the same order, until one fails."""
    opened: list[int] = []
    step = "open"
    try:
        opened.append(os.open(device, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
        step = "KVM_GET_API_VERSION"
        version = ioctl(opened[0], KVM_GET_API_VERSION, 0)
        if version != KVM_API_VERSION:
            return {"step": step, "value": version}
        step = "KVM_CREATE_VM"
        opened.append(ioctl(opened[0], KVM_CREATE_VM, 0))
        step = "KVM_CREATE_VCPU"
        opened.append(ioctl(opened[1], KVM_CREATE_VCPU, 0))
    except OSError as error:
        return {"step": step, "errno": error.errno or 0}
    finally:
        for fd in opened:
            os.close(fd)
    return {"step": ""}


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1])))

"""The parts of a specification that nothing here reads or sets key by key: checked and passed on.

Each is JSON, in the words of https://github.com/opencontainers/runtime-spec: its keys and their
types. A key with ``!`` must be there. runsc applies memory, pids and cpu limits where it manages
cgroups. It reads seccomp only with ``--oci-seccomp``, and little of the rest.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pytest_gvisor.oci.reader import I32, I64, U16, U32, U64, Id, Keys
from pytest_gvisor.oci.vocabulary import SeccompAction, SeccompOperator

Json = Mapping[str, Any]
_Words = tuple[str, ...]

ConsoleSize = Annotated[Json, Keys({"height!": U32, "width!": U32})]

Scheduler = Annotated[Json, Keys({
    "policy!": str, "nice": I32, "priority": I32, "flags": _Words, "runtime": U64,
    "deadline": U64, "period": U64,
})]  # fmt: skip

IoPriority = Annotated[Json, Keys({"class!": str, "priority": I32})]
ExecCpuAffinity = Annotated[Json, Keys({"initial": str, "final": str})]

Device = Annotated[Json, Keys({
    "path!": str, "type!": str, "major": I64, "minor": I64, "fileMode": U32, "uid": Id, "gid": Id,
})]  # fmt: skip

NetDevice = Annotated[Json, Keys({"name": str})]
Personality = Annotated[Json, Keys({"domain!": str, "flags": _Words})]
TimeOffset = Annotated[Json, Keys({"secs": I64, "nanosecs": U32})]
MemoryPolicy = Annotated[Json, Keys({"mode!": str, "nodes": str, "flags": _Words})]

IntelRdt = Annotated[Json, Keys({
    "closID": str, "schemata": _Words, "l3CacheSchema": str, "memBwSchema": str,
    "enableCMT": bool, "enableMBM": bool, "enableMonitoring": bool,
})]  # fmt: skip

_DeviceRule = Annotated[Json, Keys({
    "allow!": bool, "type": str, "major": I64, "minor": I64, "access": str,
})]  # fmt: skip
_Memory = Annotated[Json, Keys({
    "limit": I64, "reservation": I64, "swap": I64, "kernel": I64, "kernelTCP": I64,
    "swappiness": U64, "disableOOMKiller": bool, "useHierarchy": bool, "checkBeforeUpdate": bool,
})]  # fmt: skip
_Cpu = Annotated[Json, Keys({
    "shares": U64, "quota": I64, "period": U64, "burst": U64, "realtimeRuntime": I64,
    "realtimePeriod": U64, "cpus": str, "mems": str, "idle": I64,
})]  # fmt: skip
_WeightDevice = Annotated[Json, Keys({
    "major!": I64, "minor!": I64, "weight": U16, "leafWeight": U16,
})]  # fmt: skip
_Throttle = Annotated[Json, Keys({"major!": I64, "minor!": I64, "rate!": U64})]
_BlockIo = Annotated[Json, Keys({
    "weight": U16, "leafWeight": U16, "weightDevice": tuple[_WeightDevice, ...],
    "throttleReadBpsDevice": tuple[_Throttle, ...],
    "throttleWriteBpsDevice": tuple[_Throttle, ...],
    "throttleReadIOPSDevice": tuple[_Throttle, ...],
    "throttleWriteIOPSDevice": tuple[_Throttle, ...],
})]  # fmt: skip
_HugepageLimit = Annotated[Json, Keys({"pageSize!": str, "limit!": U64})]
_Priority = Annotated[Json, Keys({"name!": str, "priority!": U32})]
_Rdma = Annotated[Json, Keys({"hcaHandles": U32, "hcaObjects": U32})]

Resources = Annotated[Json, Keys({
    "devices": tuple[_DeviceRule, ...],
    "memory": _Memory,
    "cpu": _Cpu,
    "pids": Annotated[Json, Keys({"limit!": I64})],
    "blockIO": _BlockIo,
    "hugepageLimits": tuple[_HugepageLimit, ...],
    "network": Annotated[Json, Keys({"classID": U32, "priorities": tuple[_Priority, ...]})],
    "rdma": Mapping[str, _Rdma],
    "unified": Mapping[str, str],
})]  # fmt: skip

_SeccompArg = Annotated[Json, Keys({
    "index!": U32, "value!": U64, "valueTwo": U64, "op!": SeccompOperator,
})]  # fmt: skip
_SeccompSyscall = Annotated[Json, Keys({
    "names!": _Words, "action!": SeccompAction, "errnoRet": U32, "args": tuple[_SeccompArg, ...],
})]  # fmt: skip
Seccomp = Annotated[Json, Keys({
    "defaultAction!": SeccompAction, "defaultErrnoRet": U32, "architectures": _Words,
    "flags": _Words, "listenerPath": str, "listenerMetadata": str,
    "syscalls": tuple[_SeccompSyscall, ...],
})]  # fmt: skip

"""What this process may take of the machine: cores and memory, of which control groups may leave it a part."""

from __future__ import annotations

import contextlib
import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path

CONTROL_GROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_cores() -> int:
    """CPU cores this process may run on: those it is bound to, or fewer where its groups' time is limited.

    A limit of time is rounded up, as that of `docker run --cpus`.
    """
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for group, files in _groups("cpu", ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # not there, or "max"
            quota, period = " ".join((group / name).read_text() for name in files).split()
            if int(quota) > 0:
                limits.append(max(1, math.ceil(int(quota) / int(period))))
    return min(limits)


def machine_bytes() -> int:
    """Memory that this process may take: the machine's, or less where its groups or itself are limited."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for group, (name,) in _groups("memory", ("memory.max",), ("memory.limit_in_bytes",)):
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            limits.append(int((group / name).read_text()))
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    return min(limits if address_space == resource.RLIM_INFINITY else [*limits, address_space])


def _groups(controller: str, files: tuple[str, ...], v1_files: tuple[str, ...]) -> Iterator[tuple[Path, tuple]]:
    """The folder of each group that this process is in, with the names of the files that hold the controller's limit.

    Groups lie in groups, and each may have its own limit. In a container the root may be the process's own group, and
    the rest of the path not there.
    """
    yield CONTROL_GROUPS, files
    yield CONTROL_GROUPS / controller, v1_files
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        unified = controllers == ""
        if not unified and controller not in controllers.split(","):
            continue
        root = CONTROL_GROUPS if unified else CONTROL_GROUPS / controller
        own = root / path.strip("/")
        for group in (own, *own.parents):
            if group == root or ".." in group.parts:  # of a namespace that this process is not in the root of
                break
            yield group, files if unified else v1_files

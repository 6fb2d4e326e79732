"""What a study's runs were made with: versions, commits and machines, and how many runs where they differ."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dipod_jax.runs import RunFolder


def origins(folders: Sequence[RunFolder]) -> dict[str, dict[str, str]]:
    """Heading -> name -> value."""
    versions: dict[str, Counter[str]] = {}
    machines: Counter[str] = Counter()
    for folder in folders:
        for name, version in (folder.provenance.get("versions") or {}).items():
            versions.setdefault(str(name), Counter())[str(version)] += 1
        git = folder.provenance.get("git") or {}
        dirty = " with changes" if git.get("dirty") else ""
        versions.setdefault("commit", Counter())[f"{str(git.get('commit'))[:12]}{dirty}"] += 1
        machines[_machine(folder.provenance.get("machine") or {})] += 1
    return {
        "Versions": {name: _counted(found) for name, found in versions.items()},
        "Hardware": {machine: f"{count} runs" for machine, count in machines.items()},
    }


def _machine(machine: Mapping[str, Any]) -> str:
    devices = f"{machine.get('device_count', '?')} x {machine.get('device_kind', 'unknown device')}"
    return f"{devices}, {machine.get('cpu_count', '?')} CPUs, {machine.get('platform', 'unknown platform')}"


def _counted(found: Counter[str]) -> str:
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{value} ({count} runs)" for value, count in found.most_common())

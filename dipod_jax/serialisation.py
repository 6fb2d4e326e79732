"""Configs to JSON and back, as in `config.json` of a run folder. Configs of other versions are migrated or refused."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from dipod_jax.checks import require, type_hints
from dipod_jax.cli import command_name
from dipod_jax.config import Config, LearningConfig, RolloutConfig, earlier_values, stored_fields
from dipod_jax.objectives import OBJECTIVES
from dipod_jax.policies import POLICIES
from dipod_jax.regularisers import REGULARISERS

if TYPE_CHECKING:
    from dipod_jax.runs import RunFolder

VERSION = 2
MOST_SEEDS = 2**16  # of a folder, whose seeds are listed where it is read
WAY_OUT = "start a new run, or read it with the version that wrote it"


def to_json(config: Config) -> dict[str, Any]:
    """The config as JSON values, with the version of this layout."""
    regularisers = {name: _plain(r) for name, r in vars(config.regularisers).items() if r.weight != 0}
    return {"version": VERSION, **_plain(config), "regularisers": regularisers}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        name = {"name": value.name} if hasattr(value, "name") else {}  # pyright: ignore[reportAttributeAccessIssue]
        values = {field: _plain(getattr(value, field)) for field in stored_fields(value)}
        earlier = earlier_values(value).items()
        return name | {field: x for field, x in values.items() if (field, x) not in earlier}
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def earlier_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """`policy.base_velocity` and the like: options of a folder's policy, its learning and its rollouts that
    `config.json` leaves out at the value that runs before them had, and that value."""
    policy = values.get("policy")
    family = POLICIES.get(str(policy.get("name"))) if isinstance(policy, Mapping) else None
    groups = {"learning": LearningConfig, "rollout": RolloutConfig} | ({} if family is None else {"policy": family})
    return {f"{group}.{name}": value for group, cls in groups.items() for name, value in earlier_values(cls).items()}


def trained_config(folder: RunFolder, seed: int | None = None) -> Config:
    """The config of a run folder, once `seed`, where one is named, is found to be one that the run trained.

    Raises:
        ValueError: as `from_json`, or another seed.
    """
    config = from_json(folder.config)
    trained = f"the run in {folder.path} trained {', '.join(map(str, config.all_seeds))}"
    require(seed is None or seed in config.all_seeds, "seed", seed, trained)
    return config


def resumable_config(run_dir: Path) -> Config:
    """The config of a run that is to go on.

    Raises:
        RunFolderError: not a run folder.
        ValueError: as `from_json`, or a run of another room or version.
    """
    from dipod_jax.runs import RunFolder

    stored = RunFolder.open(run_dir).config
    language = command_name("language")
    require("room" not in stored, "resume", True, f"with {run_dir} by {language}: it is a language run")
    version = stored.get("version", 1)
    what = f"with the run in {run_dir}: it can be evaluated, but was written by version {version}, not {VERSION}"
    require(version == VERSION, "resume", True, what)
    return from_json(stored)


def from_json(values: Mapping[str, Any]) -> Config:
    """Inverse of `to_json`.

    Raises:
        ValueError: one line, with the way out: an option that is missing, unknown, of another type or out of range.
            Nothing is silently filled with a default, so that a folder of another version is not misread.
    """
    if values.get("room") == "language":
        raise ValueError("config.json is of a language run, which only dipod evaluate, report and compare read")
    version = values.get("version", 1)
    if version == 1:
        from dipod_jax.migration import from_version_1

        values = from_version_1(values)
    elif version != VERSION:
        raise ValueError(f"config.json has version {version!s:.20}, this is version {VERSION}: {WAY_OUT}")
    options = {name: value for name, value in values.items() if name != "version"}
    objective = OBJECTIVES.choose(_name(options, "objective"))
    _name(options, "policy")
    if isinstance(regularisers := options.get("regularisers"), Mapping):  # those that a folder does not name were off
        off = {name: _plain(cls()) for name, cls in REGULARISERS.items() if name != "dipod"}
        options["regularisers"] = {**off, **regularisers}
    config = read_options(Config(objective(), POLICIES[objective.policy](**objective.policy_defaults)), options)
    if config.seeds > MOST_SEEDS:
        raise ValueError(f"config.json: seeds is {config.seeds}, more than {MOST_SEEDS}: {WAY_OUT}")
    return config


def _name(options: Mapping[str, Any], group: str) -> str:
    found = options.get(group)
    if not isinstance(found, Mapping) or not isinstance(found.get("name"), str):
        raise ValueError(f"config.json: {group} is not a group of options with a name: {WAY_OUT}")
    return found["name"]


def read_options(template: Any, values: Any, where: str = "") -> Any:
    """A dataclass of the template's type, its fields from JSON, all of them, no others, each of its type.

    Args:
        template: options that say which groups there are; of a group with a name, the same name.
        values: from `config.json`.
        where: prefix of the options' names, for messages.

    Raises:
        ValueError: one line, with the way out.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"config.json: {where.rstrip('.')} is not a group of options: {WAY_OUT}")
    fields = {name: getattr(template, name) for name in stored_fields(template)}
    if hasattr(template, "name"):
        given = values.get("name")
        if given != template.name:
            raise ValueError(f"config.json: {where}name is {given!r:.40}, not {template.name!r}: {WAY_OUT}")
        values = {name: value for name, value in values.items() if name != "name"}
    values = earlier_values(template) | dict(values)
    for what, names in (("lacks", set(fields) - set(values)), ("holds unknown", set(values) - set(fields))):
        if names:
            raise ValueError(f"config.json {what} options ({', '.join(where + n for n in sorted(names))}): {WAY_OUT}")
    hints = type_hints(type(template))
    return type(template)(**{name: _field(hints[name], fields[name], values[name], where + name) for name in fields})


def _field(hint: Any, default: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(default):
        return read_options(default, value, where + ".")
    value = tuple(value) if isinstance(value, list) else value
    if not _fits(hint, value):
        raise ValueError(f"config.json: {where} is {value!r:.60}, which is of another type: {WAY_OUT}")
    return Path(value) if Path in (hint, *get_args(hint)) and value is not None else value


def _fits(hint: Any, value: Any) -> bool:
    """Whether a JSON value (lists as tuples) is of a field's type."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(part, value) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(get_args(hint)[0], item) for item in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str if hint is Path else hint)

"""The kinds of run that a sweep trains: in control (`dipod train`), and of a language model (`dipod language`)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from dipod_jax import serialisation
from dipod_jax.checks import check_choice
from dipod_jax.config import Config
from dipod_jax.language import config as language
from dipod_jax.language import post_training
from dipod_jax.language.config import LanguageConfig
from dipod_jax.training.setup import prepare_devices, prepare_jax

AnyConfig: TypeAlias = Config | LanguageConfig

# Options that change no number: where a run lies, how it is kept and shown, what its other options were made from.
UNCOUNTED = {"out", "resume", "logger", "checkpoint_interval", "keep_checkpoints", "strict_resume", "preset", "version"}
UNCOUNTED |= {"cache"}  # of pretrained models
# Options that are data in a compiled program (`training.state.Tunables`) or that the loop alone reads.
DATA = {"beta", "beta_control", "total_steps", "seeds", "seed_list", "objective", "regularisers"}
RATES = {"learning_rate", "final_learning_rate"}


class Room(NamedTuple):
    """What a sweep asks of one kind of run."""

    command: str
    """`dipod <command>` trains one"""
    to_json: Callable[[Any], dict[str, Any]]
    """a config as `config.json` holds it"""
    from_json: Callable[[dict[str, Any]], Any]
    program_key: Callable[[Any], str]
    """the same for configs that one compiled program serves"""
    prepare: Callable[[Any], None]
    """choose the devices, before anything asks for one"""
    make_programs: Callable[[Any], Any]
    adapted: Callable[[Any, Any], Any]
    """programs for another config of their key"""
    train: Callable[[Any, Any, float], None]
    """a config into its folder, by programs of its key; in control the clock began at the `perf_counter` given. Raises
    as that room's `loop.train`"""


def room_of(config: AnyConfig) -> Room:
    """The room that a config is of."""
    return ROOMS[config.room]


def read_config(values: dict[str, Any]) -> AnyConfig:
    """The config of a stored one, of whichever room.

    Raises:
        ValueError: one line: it is of another version, or of no room that is known.
    """
    room = values.get("room", Config.room)
    check_choice("room", room, ROOMS)
    return ROOMS[room].from_json(values)


def program_key(config: AnyConfig) -> str:
    """The same for configs that one compiled program serves."""
    return room_of(config).program_key(config)


def _control_key(config: Config) -> str:
    """Configs of one key differ in `Tunables`, in the seeds but not in their number, in length, in folders and in what
    the loop does beside training."""
    import jax  # of which nothing may ask for a device: `prepare_jax` comes later

    options = {name: value for name, value in serialisation.to_json(config).items() if name not in UNCOUNTED | DATA}
    options["learning"] = {name: value for name, value in options["learning"].items() if name not in RATES}
    structure = str(jax.tree.structure((config.objective, config.active_regularisers)))
    return json.dumps([len(config.all_seeds), structure, options], sort_keys=True)


def _control_programs(config: Config) -> Any:
    from dipod_jax.training.programs import make_programs

    return make_programs(config, config.all_seeds).compile()


def _adapted_control(programs: Any, config: Config) -> Any:
    return dataclasses.replace(programs, config=config, seeds=config.all_seeds)


def _train_control(config: Config, programs: Any, started: float) -> None:
    from dipod_jax.training.loop import train

    train(config, started=started, programs=programs)


def _train_language(config: LanguageConfig, programs: Any, started: float) -> None:
    from dipod_jax.language.loop import train

    del started  # its clock begins with the run
    train(config, programs=programs, say=lambda line: print(line, flush=True))


ROOMS = {
    "control": Room(
        command="train",
        to_json=serialisation.to_json,
        from_json=serialisation.from_json,
        program_key=_control_key,
        prepare=prepare_jax,
        make_programs=_control_programs,
        adapted=_adapted_control,
        train=_train_control,
    ),
    "language": Room(
        command="language",
        to_json=language.to_json,
        from_json=language.from_json,
        program_key=post_training.program_key,
        prepare=lambda config: prepare_devices(),
        make_programs=post_training.make_programs,
        adapted=lambda programs, config: programs,
        train=_train_language,
    ),
}

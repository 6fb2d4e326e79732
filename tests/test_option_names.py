"""Every option of every command refuses what is out of its range, under the whole name that a user types."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from dipod_jax.commands import _evaluate_language, tinydiffusion, twotoken
from dipod_jax.language.config import make_config as language_config
from dipod_jax.language.methods import METHODS
from dipod_jax.objectives import OBJECTIVES
from dipod_jax.options import override
from dipod_jax.policies import POLICIES
from dipod_jax.presets import make_config
from dipod_jax.studies.contraction import options as contraction
from dipod_jax.studies.methods import options as comparison
from dipod_jax.studies.placements import options as placements
from dipod_jax.studies.table1 import options as table1

CONTROL = [name for name, objective in OBJECTIVES.items() if objective.policy in POLICIES]
CONFIGS = {
    **{f"train {name}": lambda name=name: make_config("smoke", "BallInCup", name, "native")[0] for name in CONTROL},
    **{f"language {name}": lambda name=name: language_config("sudoku", name) for name in METHODS},
    "language countdown": lambda: language_config("countdown"),
    "evaluate": lambda: _evaluate_language.EvaluateConfig(Path("run")),
    "comparison": comparison.Config,
    "contraction": contraction.Config,
    "placements": placements.Config,
    "table1": table1.Config,
    "tinydiffusion": tinydiffusion.Config,
    "twotoken": twotoken.Config,
}


def options_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every option, those of nested dataclasses included."""
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from options_of(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name]


def refused_value(hint: Any) -> Any:
    """What no option of this type allows; None where all values of the type may be meant, as of a path."""
    hints = (hint, *get_args(hint))
    lists = [each for each in hints if get_origin(each) is tuple]
    if lists:
        element = refused_value(get_args(lists[0])[0])
        return None if element is None else (element,)
    if float in hints:
        return math.nan
    if int in hints:
        return -(2**63)
    return "nonsense" if any(get_origin(each) is Literal for each in hints) else None


@pytest.mark.parametrize("name", CONFIGS)
def test_a_value_out_of_range_is_refused_under_the_whole_name_of_its_option(name):
    config = CONFIGS[name]()
    values = {path: refused_value(hint) for path, hint in options_of(config)}
    tried = {path: value for path, value in values.items() if value is not None}
    assert tried
    for path, value in tried.items():
        with pytest.raises(ValueError, match=f"^--{path.replace('_', '-')} .* is not allowed: "):
            override(config, {path: value})

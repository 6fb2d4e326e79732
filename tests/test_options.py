"""Classes of options as pytrees: no two of them are one to JAX."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.objectives import OBJECTIVES
from dipod_jax.options import register_options
from dipod_jax.regularisers import REGULARISERS


@pytest.mark.parametrize("registry", [OBJECTIVES, REGULARISERS])
def test_no_two_classes_of_options_are_one_structure_to_jax(registry):
    made = [jax.tree.structure(registry[name]()) for name in registry]
    assert [[a == b for b in made] for a in made] == np.eye(len(made), dtype=bool).tolist()
    with_keys = [jax.tree.leaves_with_path(registry[name]()) for name in registry]
    paths = [[jax.tree_util.keystr(path) for path, _ in leaves] for leaves in with_keys]
    values = [[getattr(registry[name](), path[1:]) for path in of] for name, of in zip(registry, paths, strict=True)]
    assert values == [[value for _, value in leaves] for leaves in with_keys]


def test_what_is_compiled_for_one_class_of_options_is_not_run_for_another():
    @jax.jit
    def whose(options):
        return {type(options).__name__: jnp.zeros(())}

    made = [dataclasses.make_dataclass(f"Of{index}", [("a", float)], frozen=True) for index in range(60)]
    classes = [register_options(cls) for cls in made]
    assert [list(whose(cls(1.0))) for cls in classes] == [[cls.__name__] for cls in classes]

"""DDPO and Flow-GRPO against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import ACTION, SMALL, acted, assert_first_ratio_is_one, make, moved, numpy_clip
from numpy.testing import assert_allclose
from score_batches import assert_clipped_and_not, assert_value_and_gradient, random_batch

from dipod_jax.objectives import OBJECTIVES
from dipod_jax.objectives.ddpo import Ddpo, FlowGrpo
from dipod_jax.policies.flow_sde import DdimFlowOptions, FlowSdeOptions
from dipod_jax.presets import make_config


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), [("ddpo", DdimFlowOptions), ("flow-grpo", FlowSdeOptions)])
def test_the_loss_is_a_loop_over_steps_of_log_probs_averaged_over_dimensions(name, family):
    policy, params = make(family(**SMALL))
    obs, action, _, evidence = acted(policy, params)
    old, new, far = (policy.score(moved(params, s), obs, action, evidence) for s in (1.0, 1.01, 0.9))
    advantage = np.random.default_rng(0).standard_normal(7)
    epsilon = 0.01
    log_ratio = (np.float64(old.loss) - np.float64(new.loss)) / ACTION
    terms = [numpy_clip(log_ratio[b, k], advantage[b], epsilon) for b in range(7) for k in range(4)]
    expected = np.mean(terms)
    if name == "flow-grpo":  # + .04 mean (mu - mu_ref)^2 / (2 s^2), s = std / sqrt(1 / K)
        diffusion = np.float64(policy.transitions.std) * np.sqrt(4)
        apart = np.float64(new.steps.move) - np.float64(far.steps.move)
        expected += 0.04 * np.mean(np.square(apart) / (2 * diffusion[:, None] ** 2))
    objective = OBJECTIVES[name](clip_epsilon=epsilon)
    loss, metrics = objective(new, old, far, jnp.float32(advantage))
    assert_allclose(loss, expected, rtol=1e-3, atol=1e-6)
    assert 0.0 < metrics["clip_fraction"] < 1.0  # or one side of the clip is not seen


@pytest.mark.parametrize(("objective", "kl_weight"), [(Ddpo(0.05), 0.0), (FlowGrpo(0.05, 0.3), 0.3)])
def test_its_gradient_is_that_of_the_formula_where_steps_are_clipped_and_where_not(objective, kl_weight):
    loss, old, advantage = random_batch(num_draws=4, size=16, scale=0.3)
    assert_clipped_and_not((old - loss) / ACTION, advantage[:, None], 0.05)
    rng = np.random.default_rng(1)
    (move, move_ref), std = rng.standard_normal((2, 16, 4, ACTION)), rng.uniform(0.1, 0.5, (4, 1))

    def formula(loss, move):
        surrogate = np.vectorize(numpy_clip)((old - loss) / ACTION, advantage[:, None], 0.05)
        kl = np.square(move - move_ref) / (2 * 4 * std**2)  # s = std / sqrt(1 / K)
        return surrogate.mean() + kl_weight * kl.mean()

    new, acting, reference = ({"loss": x, "move": y} for x, y in ((loss, move), (old, 0 * move), (old, move_ref)))
    assert_value_and_gradient(objective, formula, new, acting, advantage, reference, std=std)


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "family"), [(Ddpo(), DdimFlowOptions), (FlowGrpo(), FlowSdeOptions)])
def test_the_first_ratio_is_one_and_good_actions_become_likelier(objective, family):
    assert_first_ratio_is_one(objective, *make(family(**SMALL)))


@pytest.mark.slow
def test_flow_grpos_kl_is_zero_at_the_reference_and_pulls_towards_it():
    policy, params = make(FlowSdeOptions(**SMALL))
    obs, action, _, evidence = acted(policy, params)
    reference = policy.score(params, obs, action, evidence)

    def kl(p):
        new = policy.score(p, obs, action, evidence)
        return FlowGrpo(kl_weight=1.0)(new, reference, reference, jnp.zeros(7))[0]

    assert_allclose(kl(params), 0.0, atol=1e-6)
    start = moved(params)
    step = jax.tree.map(lambda p, g: p - 1e-3 * g, start, jax.grad(kl)(start))
    assert kl(step) < kl(start)


def test_the_presets_compare_flow_grpo_with_the_acting_policy():
    for preset in ("paper", "cpu"):
        config, _ = make_config(preset, "BallInCup", "flow-grpo", "native")
        assert config.needs_reference and config.learning.reference_decay == 0.0

"""GSB-MDPO against loops in float64, and its path KL against the Monte Carlo mean of the log ratio."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import SMALL, acted, assert_first_ratio_is_one, make, moved
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import assert_on_all_sides, assert_value_and_gradient, random_batch

from dipod_jax.objectives.gsb_mdpo import GsbMdpo
from dipod_jax.policies.flow_sde import NoisyFlowOptions


@pytest.fixture(scope="module")
def chain():
    return make(NoisyFlowOptions(**SMALL))


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["new", "old"])
@pytest.mark.parametrize("mixing", [0.0, 0.3])
def test_the_loss_is_a_loop_over_paths(chain, direction, mixing):
    policy, params = chain
    obs, action, path, evidence = acted(policy, params)
    old, new = (policy.score(moved(params, s), obs, action, evidence) for s in (1.0, 1.01))
    advantage = np.random.default_rng(0).standard_normal(7)
    options = dict(path_kl_weight=0.7, step_clip=0.1, path_clip=0.25, direction=direction, anchor_mixing=mixing)
    loss, metrics = GsbMdpo(**options)(new, old, None, jnp.float32(advantage))
    total, costs, at_a_clip = 0.0, [], 0
    for b in range(7):
        clipped, cost = 0.0, 0.0
        for k in range(4):
            x, t = path[b, k], jnp.float32(1 - k / 4)
            v_new, v_old = (np.float64(policy.velocity(moved(params, s), obs[b], x, t)) for s in (1.01, 1.0))
            difference = float(old.loss[b, k] - new.loss[b, k])
            at_a_clip += abs(difference) > 0.1
            clipped += min(max(difference, -0.1), 0.1)
            # mu = x + dt v, dt = -1/4; the anchor's drift is (1 - lambda) v_old
            cost += np.square(-0.25 * (v_new - (1 - mixing) * v_old)).sum() / (2 * 0.05**2)
        ratio = np.exp(min(max(clipped, -0.25), 0.25))
        at_a_clip += abs(clipped) > 0.25
        total -= ratio * advantage[b] - (ratio if direction == "new" else 1.0) * 0.7 * cost
        costs.append(cost)
    assert at_a_clip > 3
    assert_allclose(loss, total / 7, rtol=2e-3)
    assert_allclose(metrics["path_kl"], np.mean(costs), rtol=2e-3)


@pytest.mark.parametrize("direction", ["new", "old"])
@pytest.mark.parametrize("mixing", [0.0, 0.3])
def test_its_gradient_is_that_of_the_formula_where_steps_and_paths_are_clipped_and_where_not(direction, mixing):
    loss, old, advantage = random_batch(num_draws=4, size=16, scale=0.2)
    bounded = lambda l: np.clip(old - l, -0.2, 0.2)
    assert_on_all_sides(old - loss, -0.2, 0.2)
    assert_on_all_sides(bounded(loss).sum(-1), -0.25, 0.25)
    rng = np.random.default_rng(1)
    (move, move_old), std = rng.standard_normal((2, 16, 4, 3)), rng.uniform(0.5, 1.5, (4, 1))

    def formula(loss, move):
        ratio = np.exp(np.clip(bounded(loss).sum(-1), -0.25, 0.25))
        cost = (np.square(move - (1 - mixing) * move_old) / (2 * std**2)).sum((1, 2))
        return -np.mean(ratio * advantage - (ratio if direction == "new" else 1.0) * 0.7 * cost)

    objective = GsbMdpo(path_kl_weight=0.7, path_clip=0.25, direction=direction, anchor_mixing=mixing)
    new, acting = {"loss": loss, "move": move}, {"loss": old, "move": move_old}
    assert_value_and_gradient(objective, formula, new, acting, advantage, std=std)


@pytest.mark.slow
def test_the_mean_log_ratio_under_the_acting_policy_is_the_path_kl(chain):
    """E_old[-log R] = E_old[C] without the clips: 20,000 paths, standard error sqrt(2 C / n)."""
    policy, params = chain
    obs, action, _, evidence = acted(policy, params, (20_000,))
    score = jax.jit(lambda p: policy.score(p, obs, action, evidence))
    old, new = score(params), score(moved(params, 1.02))
    cost = old.steps.divergence(new.steps).sum(-1).mean()
    log_ratio = (old.loss - new.loss).sum(-1).mean()
    assert cost > 0.01
    assert_allclose(-log_ratio, cost, atol=4 * float(jnp.sqrt(2 * cost / 20_000)))


@pytest.mark.slow
def test_the_path_kl_still_has_a_gradient_where_every_step_is_clipped(chain):
    policy, params = chain
    obs, action, _, evidence = acted(policy, params)
    old = policy.score(params, obs, action, evidence)

    def loss(p, weight):
        objective = GsbMdpo(path_kl_weight=weight, step_clip=1e-9)
        return objective(policy.score(p, obs, action, evidence), old, None, jnp.ones(7))[0]

    for weight, moves in ((0.0, False), (1.0, True)):
        gradient = jax.grad(loss)(moved(params), weight)
        assert any(bool(jnp.any(g != 0.0)) for g in jax.tree.leaves(gradient)) is moves


@pytest.mark.slow
def test_the_first_ratio_is_one_and_the_first_path_kl_is_zero(chain):
    policy, params = chain
    obs, action, _, evidence = acted(policy, params)
    old = policy.score(params, obs, action, evidence)
    _, metrics = GsbMdpo()(old, old, None, jnp.ones(7))
    assert_array_equal(metrics["path_kl"], 0.0)
    assert_first_ratio_is_one(GsbMdpo(), policy, params)

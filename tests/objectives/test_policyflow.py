"""PolicyFlow's objective against a loop in float64 and its gradient at the acting parameters in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import SMALL, acted, assert_first_ratio_is_one, make, moved, numpy_clip
from numpy.testing import assert_allclose
from score_batches import assert_clipped_and_not, assert_value_and_gradient, random_batch

from dipod_jax.objectives.policyflow import PolicyFlow
from dipod_jax.policies.terminal_noise import TerminalNoiseOptions, TerminalNoisePolicy


@pytest.fixture(scope="module")
def policy_and_params():
    return make(TerminalNoiseOptions(**SMALL, initial_noise=0.3))


@pytest.mark.slow
def test_the_loss_is_a_loop_over_draws_with_its_two_regularisers(policy_and_params):
    policy, params = policy_and_params
    obs, action, trace, evidence = acted(policy, params)
    new_params = moved(params, 1.2)
    old, new = (policy.score(p, obs, action, evidence) for p in (params, new_params))
    advantage = np.random.default_rng(0).standard_normal(7)
    noise, u = np.float64(trace.noise)[:, None], np.float64(old.steps.move) - np.float64(new.steps.move)
    std, std_old = np.float64(policy.std(new_params)), np.float64(policy.std(params))
    log_ratio = (noise**2 / (2 * std_old**2) - (noise + u) ** 2 / (2 * std**2) - np.log(std / std_old)).sum(-1)
    terms = [numpy_clip(log_ratio[b, n], advantage[b], 0.2) for b, n in np.ndindex(7, 6)]
    expected = np.mean(terms) - 0.02 * np.log(std).sum() + 0.3 * np.mean(np.float64(new.penalty))
    objective = PolicyFlow(entropy_weight=0.02, brownian_weight=0.3)
    assert_allclose(objective(new, old, None, jnp.float32(advantage))[0], expected, rtol=1e-4, atol=1e-5)


def test_its_gradient_is_that_of_the_formula_where_draws_are_clipped_and_where_not():
    loss, old, advantage = random_batch(num_draws=6, size=16, scale=0.3)
    assert_clipped_and_not(old - loss, advantage[:, None], 0.2)
    rng = np.random.default_rng(1)
    weight = rng.dirichlet(np.ones(6))

    def formula(loss, std, penalty):
        surrogate = np.vectorize(numpy_clip)(old - loss, advantage[:, None], 0.2) @ weight
        return surrogate.mean() - 0.02 * np.log(std).sum() + 0.3 * penalty.mean()

    new = {"loss": loss, "std": rng.uniform(0.1, 0.5, 3), "penalty": rng.uniform(0.0, 2.0, 16)}
    objective = PolicyFlow(entropy_weight=0.02, brownian_weight=0.3)
    fixed = {"weight": weight, "move": np.zeros((16, 6, 3))}
    assert_value_and_gradient(objective, formula, new, {"loss": old}, advantage, **fixed)


@pytest.mark.slow
def test_the_first_ratio_is_one_and_its_gradient_is_the_noise_over_its_variance(policy_and_params):
    """d(log rho) / d v_new = -n / sigma^2 at u = 0: a push of the velocity against the noise of a good action."""
    policy, params = policy_and_params
    plain = PolicyFlow(entropy_weight=0.0, brownian_weight=0.0)
    assert_first_ratio_is_one(plain, policy, params)
    obs, action, trace, evidence = acted(policy, params)
    old = policy.score(params, obs, action, evidence)
    acting = TerminalNoisePolicy.velocity

    def log_ratio(push):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TerminalNoisePolicy, "velocity", lambda *arguments: acting(*arguments) + push)
            return (old.loss - policy.score(params, obs, action, evidence).loss).sum()

    nothing = jnp.zeros_like(evidence.velocity)
    expected = jnp.broadcast_to((-trace.noise / policy.std(params) ** 2)[:, None], nothing.shape)
    assert_allclose(jax.grad(log_ratio)(nothing), expected, rtol=1e-5)
    assert_allclose(log_ratio(nothing), 0.0, atol=1e-4)


@pytest.mark.slow
def test_the_brownian_regulariser_has_a_gradient_where_the_ratio_has_none(policy_and_params):
    policy, params = policy_and_params
    obs, action, _, evidence = acted(policy, params)
    old = policy.score(params, obs, action, evidence)
    loss = lambda p, w: PolicyFlow(entropy_weight=0.0, brownian_weight=w)(
        policy.score(p, obs, action, evidence), old, None, jnp.zeros(7)
    )[0]
    norms = [sum(float(jnp.square(g).sum()) for g in jax.tree.leaves(jax.grad(loss)(params, w))) for w in (0.0, 1.0)]
    assert norms[0] == 0.0 and norms[1] > 0.0


@pytest.mark.slow
def test_the_entropy_bonus_widens_the_noise(policy_and_params):
    policy, params = policy_and_params
    obs, action, _, evidence = acted(policy, params)
    old = policy.score(params, obs, action, evidence)
    loss = lambda p: PolicyFlow(entropy_weight=0.01)(policy.score(p, obs, action, evidence), old, None, jnp.zeros(7))[0]
    assert_allclose(jax.grad(loss)(params)["log_std"], -0.01, rtol=1e-4)

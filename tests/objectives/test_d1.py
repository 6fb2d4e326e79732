"""d1, coupled-GRPO and UniGRPO: one clipped ratio an entry and a k3, and the scores that they are taken over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from score_batches import gradient_of, loss_of, numerical_gradient, random_batch

from dipod_jax.objectives.coupled_grpo import CoupledGrpo
from dipod_jax.objectives.d1 import D1
from dipod_jax.objectives.unigrpo import UniGrpo
from dipod_jax.policies.dimension_flow import DimensionFlowOptions
from dipod_jax.presets import make_config


@pytest.mark.parametrize("cls", [D1, CoupledGrpo, UniGrpo])
@pytest.mark.parametrize("kl_weight", [None, 0.3])
def test_value_and_gradient_equal_a_float64_formula(cls, kl_weight):
    new, old, advantage = random_batch(num_draws=5, scale=0.3)
    reference = old + 0.5 * np.random.default_rng(1).standard_normal(old.shape)

    def formula(n):
        rho, a, d = np.exp(old - n), advantage[:, None], reference - n
        kl = 0.0 if kl_weight is None else kl_weight * (np.exp(-d) - 1 + d)
        return (-np.minimum(rho * a, np.clip(rho, 0.8, 1.2) * a) + kl).mean()

    objective = cls(0.2, kl_weight)
    assert objective.needs_reference == (kl_weight is not None)
    given = new, old, advantage, None if kl_weight is None else reference
    assert_allclose(loss_of(objective, *given), formula(new), rtol=1e-5)
    assert_allclose(gradient_of(objective, *given), numerical_gradient(formula, new), rtol=1e-3, atol=1e-7)


def test_at_the_acting_parameters_the_gradient_is_that_of_the_advantage_weighted_loss():
    _, old, advantage = random_batch()
    gradient = gradient_of(D1(), old, old, advantage, old)  # k3 has none at its reference
    assert_allclose(gradient, np.repeat(advantage[:, None], 8, 1) / old.size, rtol=1e-5)


def test_ratios_that_would_overflow_have_finite_gradients():
    for far in (-1e4, 1e4):
        gradient = gradient_of(D1(), np.full((2, 4), far), np.ones((2, 4)), np.array([-1.0, 1.0]), np.ones((2, 4)))
        assert jnp.isfinite(gradient).all()


class Scored:
    """A policy with fixed parameters that scores 4 equal actions in 4 equal states."""

    def __init__(self, passes):
        self.policy = DimensionFlowOptions((8,), passes=passes, num_draws=2).build(2, 3)
        self.obs, self.action = jnp.ones((4, 2)), jnp.broadcast_to(jnp.array([0.5, -1.0, 2.0]), (4, 3))
        self.params = jax.jit(self.policy.init)(jax.random.key(0))
        prepare, score = jax.jit(self.policy.prepare), jax.jit(self.policy.score)
        self.evidence = prepare(self.params, jax.random.key(1), self.obs, jnp.zeros((4, 3)))
        self.found = score(self.params, self.obs, self.action, self.evidence)

    def errors(self):
        """(4, passes, 3) squared velocity errors, pass by pass."""
        passes, velocity = self.evidence.passes, jax.jit(self.policy.velocity)
        columns = []
        for n in range(passes.t.shape[-1]):
            t, eps = passes.t[:, n], passes.eps[:, n]
            x_t = (1 - t[:, None]) * self.action + t[:, None] * eps
            columns.append((velocity(self.params, self.obs, x_t, t) - (eps - self.action)) ** 2)
        return np.stack(columns, 1)


@pytest.mark.slow
def test_a_one_step_score_is_the_velocity_error_at_pure_noise_in_each_dimension():
    scored = Scored("one-step")
    assert_array_equal(scored.evidence.passes.t, 1.0)
    assert_allclose(scored.found.loss, scored.errors()[:, 0], rtol=1e-4)
    assert_allclose(scored.found.weight, np.full(3, 1 / 3))
    bound = scored.policy.cfm_loss(scored.params, scored.obs, scored.action, scored.evidence.draws).mean(-1)
    assert_allclose(scored.found.bound, bound, rtol=1e-4)


def test_a_coupled_score_is_half_the_sum_over_pure_noise_and_an_antithetic_pair_with_one_noise():
    scored = Scored("coupled")
    t, eps = scored.evidence.passes
    assert_array_equal(t[:, 0], 1.0)
    assert_allclose(t[:, 1] + t[:, 2], 1.0, rtol=1e-6)
    assert (t[:, 1] >= 0.2).all() and (t[:, 1] <= 0.8).all() and len(np.unique(t[:, 1])) == 4
    assert_array_equal(eps[:, 1], eps[:, 2])
    assert (eps[:, 0] != eps[:, 1]).all()
    assert_allclose(scored.found.loss, 0.5 * scored.errors().sum(1), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "policy", "option", "value"),
    [
        ("d1", "dimension-flow", "passes", "one-step"),
        ("coupled-grpo", "dimension-flow", "passes", "coupled"),
        ("unigrpo", "flow", "draws", "stratified"),
    ],
)
def test_presets_choose_the_scores(name, policy, option, value):
    for preset in ("paper", "cpu", "smoke"):
        config = make_config(preset, "BallInCup", name, "native")[0]
        assert (config.policy.name, getattr(config.policy, option)) == (policy, value)
        assert config.needs_reference and config.learning.reference_decay == 0.0

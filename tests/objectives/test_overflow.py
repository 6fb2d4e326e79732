"""Every objective where scores lie 1e4 nats apart, against formulas in float64.

A formula is written in z = l_old - l_new, with its slope in z beside it: a bounded exponent keeps its slope, which no
difference of values would show.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from score_batches import field_scores

from dipod_jax.objectives import OBJECTIVES
from dipod_jax.objectives.fpo import Fpo
from dipod_jax.types import Steps, make_scores

FAR = 1e4
ACTION = 2
WEIGHT = np.array([0.25, 0.75])  # of two draws, or two steps of a chain
TIME = np.array([0.5, 0.9])
STD, PENALTY = 0.3, 0.75
BOUND = 20.0  # of every exponent

# Losses of two draws under the present, the acting and the reference policy. The draws' mean has a sign of its own.
SCORES = np.array(
    [
        [[0.5, 0.5], [FAR + 0.5, FAR + 0.5], [0.625, 0.6875]],  # far likelier than it was
        [[FAR + 0.5, FAR + 0.5], [0.5, 0.5], [FAR + 0.5, FAR + 0.5]],  # far less likely
        [[0.5, FAR + 0.5], [FAR + 0.5, 0.5], [0.5, 0.5]],  # draws that say the opposite
        [[0.5, 0.75], [0.625, 0.6875], [FAR + 0.5, 0.5]],  # hardly moved, but for the reference
    ]
)
ADVANTAGES = np.array([1.5, -1.5, 0.0])
# Velocities (B, N, d), which are moves of steps (B, K, d) too, present and reference.
FIELDS = np.random.default_rng(0).standard_normal((2, 12, 2, ACTION))
APART = np.square(FIELDS[0] - FIELDS[1])


class Batch(NamedTuple):
    """What a formula reads, in float64; l_ are losses (B, N)."""

    l_new: np.ndarray
    l_old: np.ndarray
    l_ref: np.ndarray
    advantage: np.ndarray

    @property
    def size(self):
        return len(self.advantage)

    def per_draw(self, value, slope):
        """Loss and gradient of terms (B, N) in z of each draw."""
        return (value @ WEIGHT).mean(), -slope * WEIGHT / self.size

    def per_action(self, value, slope):
        """Of terms (B,) in z of the mean over draws."""
        return value.mean(), -slope[:, None] * WEIGHT / self.size

    def per_step(self, value, slope):
        """Of terms (B, K) of a chain's steps, whose mean has equal weights."""
        return value.mean(), -slope / value.size


def bounded(z, bound=BOUND):
    """e^z with z at most `bound`: its slope in z is e^min(z, bound) too, beyond the bound as well."""
    return np.exp(np.minimum(z, bound))


def clip(z, a, low, high=None, rho=bounded):
    """PPO: -min(rho A, clip(rho) A). Where the clipped term is the smaller one there is no slope."""
    ratio = rho(z)
    held = np.clip(ratio, 1 - low, 1 + (low if high is None else high)) * a
    return -np.minimum(ratio * a, held), np.where(ratio * a <= held, -ratio * a, 0.0)


def pull(z, a, eps, rho):
    """ASPO: PPO's clip for A >= 0, -(rho A - |A| (rho - 1)^2 / (2 eps)) for A < 0."""
    ratio, good = rho(z), clip(z, a, eps, rho=rho)
    value = -(ratio * a - np.abs(a) * (ratio - 1) ** 2 / (2 * eps))
    slope = -(a - np.abs(a) * (ratio - 1) / eps) * ratio
    return tuple(np.where(a >= 0, g, bad) for g, bad in zip(good, (value, slope), strict=True))


def k2(d):
    return d**2 / 2, d


def k3(d):
    """e^-D - 1 + D, its exponent bounded."""
    return bounded(-d) - 1 + d, 1 - bounded(-d)


def add(*parts):
    """The sum of (weight, (value, gradient))."""
    return tuple(sum(weight * part[i] for weight, part in parts) for i in (0, 1))


def constant(value):
    """A term that the losses do not enter."""
    return value, 0.0


def ratio_of_means(b, **widths):
    return b.per_action(*clip((b.l_old - b.l_new) @ WEIGHT, b.advantage, **widths))


def ratios_of_draws(b, eps):
    return b.per_draw(*clip(b.l_old - b.l_new, b.advantage[:, None], eps))


def awm(b):
    """W = t ((l + 1e-10)^p - 1e-10^p) / p, p = 1/4, whose slope is t (l + 1e-10)^-3/4."""
    weigh = lambda loss: TIME * ((loss + 1e-10) ** 0.25 - 1e-10**0.25) / 0.25
    value, slope = clip(weigh(b.l_old) - weigh(b.l_new), b.advantage[:, None], 1.0)
    surrogate = b.per_draw(value, slope * TIME * (b.l_new + 1e-10) ** -0.75)
    return add((1.0, surrogate), (0.4, constant((APART.mean(-1) @ WEIGHT)[: b.size].mean())))


def bgpo(b, stop):
    """(1 + d) A where A >= 0, e^d A where A < 0, d held at the stop."""
    d, a = b.l_old - b.l_new, b.advantage[:, None]
    risen, fallen = np.minimum(d, np.log1p(stop)), np.maximum(d, np.log1p(-stop))
    value = -np.where(a >= 0, 1 + risen, bounded(fallen, 10.0)) * a
    slope = -np.where(a >= 0, d < np.log1p(stop), bounded(fallen, 10.0) * (d > np.log1p(-stop))) * a
    return b.per_draw(value, slope)


def weighted_likelihood(b, log_weight, temperature, centering, clamp):
    """sum (w+ - c w-) min(l_new, clamp where the weight is negative)."""
    softmax = lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    up, down = (softmax(log_weight + sign * b.advantage / temperature) for sign in (1, -1))
    weight, loss = up - centering * down, b.l_new @ WEIGHT
    stopped = (weight < 0) & (loss > clamp)
    return (weight * np.where(stopped, clamp, loss)).sum(), np.where(stopped, 0.0, weight)[:, None] * WEIGHT


def fpopp(b):
    """Losses clipped at 20 without a slope beyond, the log ratio at 10 with one."""
    new, old = np.minimum(b.l_new, 20.0), np.minimum(b.l_old, 20.0)
    value, slope = pull(old - new, b.advantage[:, None], 0.05, lambda z: bounded(z, 10.0))
    return b.per_draw(value, slope * (b.l_new < 20.0))


def fpo(b):
    """A bad sample with a loss over 3 has no part; the log ratio is bounded on both sides, with a slope."""
    credit = np.where((b.advantage < 0) & (np.maximum(b.l_old @ WEIGHT, b.l_new @ WEIGHT) > 3.0), 0.0, b.advantage)
    return b.per_action(*pull((b.l_old - b.l_new) @ WEIGHT, credit, 0.15, lambda z: np.exp(np.clip(z, -3, 3))))


def gdsd(b):
    """(clip(d) - psi A)^2, without a slope outside the clip, and k2 of each draw."""
    d, low, high = b.l_old - b.l_new, np.log(0.8), np.log(1.2)
    error = np.clip(d, low, high) - 0.05 * b.advantage[:, None]
    regression = b.per_draw(error**2, 2 * error * ((d > low) & (d < high)))
    return add((1.0, regression), (0.3, b.per_draw(*k2(b.l_ref - b.l_new))))


def gsb_mdpo(b):
    """-R (A - C), R and its parts clipped without a slope outside."""
    d = b.l_old - b.l_new
    path = np.clip(d, -0.2, 0.2).sum(-1)
    ratio, cost = np.exp(np.clip(path, -0.25, 0.25)), steps_kl(b)
    gain = ratio * (b.advantage - cost)
    return -gain.mean(), gain[:, None] * ((np.abs(d) < 0.2) & (np.abs(path) < 0.25)[:, None]) / b.size


def steps_kl(b):
    """(B,) sum_k |mu - mu_ref|^2 / (2 std^2)."""
    return (APART / (2 * STD**2)).sum((1, 2))[: b.size]


def reinflow(b):
    """Log-probs clipped at 1 without a slope, and the entropy of the noise."""
    old, new = b.l_old @ WEIGHT, b.l_new @ WEIGHT
    value, slope = clip(np.clip(old, -1, 1) - np.clip(new, -1, 1), b.advantage, 0.01)
    entropy = 0.5 * np.log(2 * np.pi * np.e * STD**2)
    return add((1.0, b.per_action(value, slope * (np.abs(new) < 1))), (-0.03, constant(entropy)))


def spg(b):
    """exp(S_new - S_old), bounded at 3: S the ELBO where A > 0, else half of it and half of Renyi's."""

    def surrogate(loss):
        lower, upper = -loss @ WEIGHT, np.logaddexp.reduce(-1.5 * loss + np.log(WEIGHT), axis=-1) / 1.5
        return np.where(b.advantage > 0, lower, 0.5 * upper + 0.5 * lower)

    change = surrogate(b.l_new) - surrogate(b.l_old)
    value, slope = clip(change, b.advantage, 0.05, rho=lambda z: np.exp(np.clip(z, -3, 3)))
    tilted = -1.5 * b.l_new + np.log(WEIGHT)
    tilted = np.exp(tilted - np.logaddexp.reduce(tilted, axis=-1)[:, None])
    share = np.where(b.advantage[:, None] > 0, WEIGHT, 0.5 * tilted + 0.5 * WEIGHT)
    return value.mean(), -slope[:, None] * share / b.size


def vrpo(b):
    """-log sigmoid(2 sign(A) (D_0 - D_1)), whose slope is -sigmoid(-margin)."""
    side = 2.0 * np.sign(b.advantage)
    margin = side * ((b.l_ref - b.l_new) @ [1, -1])
    slope = -np.exp(-np.logaddexp(0.0, margin)) * side
    return np.logaddexp(0.0, -margin).mean(), -slope[:, None] * [1, -1] / b.size


def chain(b, eps, kl_weight=0.0):
    value, slope = clip((b.l_old - b.l_new) / ACTION, b.advantage[:, None], eps)
    kl = steps_kl(b).mean() / (2 * 2 * ACTION)  # a mean over K steps, / (K d)
    return add((1.0, b.per_step(value, slope / ACTION)), (kl_weight, constant(kl)))


def dppo(b):
    return b.per_step(*clip(b.l_old - b.l_new, b.advantage[:, None] * [0.9, 1.0], 0.2))


def policyflow(b):
    return add((1.0, ratios_of_draws(b, 0.2)), (-0.01, constant(ACTION * np.log(STD))), (0.01, constant(PENALTY)))


def dmpo(b):
    return weighted_likelihood(b, 0.5 * (b.l_old - b.l_ref) @ WEIGHT, 0.75, 0.9, 3.0)


def with_kl(surrogate, weight, kl):
    """Beside a KL to the reference of mean scores."""
    return lambda b: add((1.0, surrogate(b)), (weight, b.per_action(*kl((b.l_ref - b.l_new) @ WEIGHT))))


def with_k3_of_draws(eps):
    return lambda b: add((1.0, ratios_of_draws(b, eps)), (0.3, b.per_draw(*k3(b.l_ref - b.l_new))))


# Of each objective: options that make all its terms count, and the formula.
FORMULAS = {
    "awm": ({}, awm),
    "bgpo": ({"stop_epsilon": 0.15}, lambda b: bgpo(b, 0.15)),
    "coupled-grpo": ({"kl_weight": 0.3}, with_k3_of_draws(0.2)),
    "d1": ({"kl_weight": 0.3}, with_k3_of_draws(0.5)),
    "ddpo": ({"clip_epsilon": 0.05}, lambda b: chain(b, 0.05)),
    "dmpo": ({"temperature": 0.75, "centering": 0.9, "reference_weight": 0.5, "negative_loss_clamp": 3.0}, dmpo),
    "dppo": ({"denoising_discount": 0.9}, dppo),
    "espo": (
        {"clip_epsilon_low": 0.1, "clip_epsilon_high": 0.3, "kl_weight": 0.7},
        with_kl(lambda b: ratio_of_means(b, low=0.1, high=0.3), 0.7, k2),
    ),
    "exact-ppo": ({}, lambda b: ratio_of_means(b, low=0.1)),
    "flow-grpo": ({"clip_epsilon": 0.05, "kl_weight": 0.3}, lambda b: chain(b, 0.05, 0.3)),
    "fpo": (
        {"clip_epsilon": 0.15, "negative_advantages": "spo", "log_ratio_clip": 3.0, "negative_loss_clamp": 3.0},
        fpo,
    ),
    "fpo++": ({}, fpopp),
    "gdpo": ({"kl_weight": 0.7}, with_kl(lambda b: ratio_of_means(b, low=0.5), 0.7, k3)),
    "gdsd": ({"kl_weight": 0.3}, gdsd),
    "genpo": ({}, lambda b: add((1.0, ratio_of_means(b, low=0.2)), (0.01, constant(PENALTY)))),
    "gsb-mdpo": ({"path_clip": 0.25}, gsb_mdpo),
    "policyflow": ({}, policyflow),
    "ppo": ({}, lambda b: ratio_of_means(b, low=0.1)),
    "reinflow": ({}, reinflow),
    "spg": ({}, spg),
    "unigrpo": ({"kl_weight": 0.3}, with_k3_of_draws(0.2)),
    "vrpo": ({"sharpness": 2.0}, vrpo),
    "wd1": ({"negative_loss_clamp": 3.0}, lambda b: weighted_likelihood(b, 0.0, 1.0, 1.0, 3.0)),
}


def edge_batch(advantages=ADVANTAGES):
    """Every row of SCORES with each of three advantages."""
    l_new, l_old, l_ref = np.repeat(SCORES, 3, axis=0).swapaxes(0, 1)
    return Batch(l_new, l_old, l_ref, np.tile(advantages, len(SCORES)))


@jax.jit
def value_and_gradient(objective, l_new, others, advantage, fields):
    def scores(loss, field):
        steps = Steps(field, jnp.full(field.shape, STD, jnp.float32))
        flow = field_scores(field, TIME)._replace(weight=jnp.broadcast_to(jnp.float32(WEIGHT), loss.shape))
        penalty = jnp.full(loss.shape[:1], PENALTY, jnp.float32)
        return make_scores(loss, weight=jnp.float32(WEIGHT), field=flow)._replace(steps=steps, penalty=penalty)

    old, reference = (scores(loss, fields[1]) for loss in others)
    return jax.value_and_grad(lambda n: objective(scores(n, fields[0]), old, reference, advantage)[0])(l_new)


def assert_is(objective, formula, batch):
    single = lambda x: jnp.asarray(x, jnp.float32)
    l_new, l_old, l_ref, advantage = map(single, batch)
    found = value_and_gradient(objective, l_new, (l_old, l_ref), advantage, single(FIELDS[:, : batch.size]))
    for name, x, expected in zip(("value", "gradient"), found, formula(batch), strict=True):
        assert_allclose(x, expected, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_and_gradient_are_those_of_the_formula_where_scores_lie_far_apart(name):
    options, formula = FORMULAS[name]
    assert_is(OBJECTIVES[name](**options), formula, edge_batch())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_and_so_they_are_where_all_rewards_are_equal(name):
    options, formula = FORMULAS[name]
    batch = edge_batch(np.zeros(3))
    assert np.isfinite(formula(batch)[0])
    assert_is(OBJECTIVES[name](**options), formula, batch)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ("dmpo", "wd1")])
def test_the_value_of_no_action_is_hidden_behind_a_larger_one(name):
    """Each alone; the two that weigh actions by a softmax have no part for a single one."""
    options, formula = FORMULAS[name]
    for row in range(12):
        alone = Batch(*(x[row : row + 1] for x in edge_batch()))
        assert_is(OBJECTIVES[name](**options), formula, alone)


@pytest.mark.parametrize("per_draw", [False, True])
def test_fpo_without_its_options_has_the_exponents_bound_alone(per_draw):
    formula = lambda b: ratios_of_draws(b, 0.05) if per_draw else ratio_of_means(b, low=0.05)
    assert_is(Fpo(ratio="per-draw" if per_draw else "average"), formula, edge_batch())

"""Does training, as a whole, find what it must? Numbers known beforehand, for a flow and for a Gaussian policy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from probes import HALF_WIDTH, MODE, ProbesTask, bimodal_rate, observation
from scipy.stats import norm
from small import BASE, probe_programs

from dipod_jax.config import RolloutConfig
from dipod_jax.objectives import OBJECTIVES
from dipod_jax.objectives.fpo import Fpo
from dipod_jax.objectives.ppo import Ppo
from dipod_jax.options import override
from dipod_jax.policies.critic import CriticOptions
from dipod_jax.policies.flow import FlowOptions
from dipod_jax.policies.gaussian import GaussianOptions
from dipod_jax.presets import make_config

pytestmark = pytest.mark.slow

DISCOUNT, ITERATIONS = 0.5, 200
SHAPE = RolloutConfig(num_envs=256, num_steps=8, episode_length=8, stagger=True)
LEARNING = replace(BASE.learning, minibatch_size=512, final_learning_rate=3e-4, discount=DISCOUNT)
COMMON = replace(BASE, rollout=SHAPE, learning=LEARNING, critic=CriticOptions((32,)), total_steps=ITERATIONS * 256 * 8)
METHODS = {
    "fpo": replace(
        COMMON,
        objective=Fpo(clip_epsilon=0.15, negative_advantages="spo", log_ratio_clip=3.0, negative_loss_clamp=3.0),
        policy=FlowOptions((32, 32), num_steps=5, sampler="midpoint", num_draws=4, draws="stratified"),
        beta=0.05,
    ),
    "ppo": replace(COMMON, objective=Ppo(clip_epsilon=0.1), policy=GaussianOptions((32, 32))),
}

# Reward a step of the bimodal probe that an objective may have, more than the first and less than the second: the least
# and the most of three seeds and both observations, as measured (docs/objectives.md), with room. A rate is from 0 to
# .5; where the room reaches an end of that, there is None.
RATES = {
    "awm": (0.09, 0.43),
    "coupled-grpo": (0.00, 0.44),
    "d1": (None, 0.05),
    "ddpo": (0.45, None),
    "dmpo": (None, 0.47),
    "dppo": (0.01, 0.15),
    "espo": (None, 0.19),
    "exact-ppo": (0.45, None),
    "flow-grpo": (0.45, None),
    "fpo": (0.35, None),
    "fpo++": (0.01, 0.25),
    "gdpo": (None, 0.10),
    "gdsd": (0.25, None),
    "genpo": (0.30, 0.49),
    "gsb-mdpo": (0.01, 0.15),
    "policyflow": (0.40, None),
    "ppo": (None, 0.115),
    "reinflow": (0.38, None),
    "spg": (None, 0.41),
    "vrpo": (None, 0.37),
    "wd1": (None, 0.47),
}
# Those whose seeds reach from nothing to all: what the best of them has, again with room; a Gaussian cannot (.109).
BEST_RATES = {"bgpo": 0.3, "unigrpo": 0.3}
# Those that find the best action of both observations in every seed, and how far their mean action may be from it.
FIND_BEST = dict.fromkeys(("ddpo", "flow-grpo", "gdsd", "genpo", "ppo", "reinflow"), 0.12)
FIND_BEST |= dict.fromkeys(("coupled-grpo", "d1", "dppo", "fpo", "fpo++", "gsb-mdpo"), 0.25)
FIND_BEST |= dict.fromkeys(("awm", "spg"), 0.4)


class Trained:
    """A method after its training on the probes: what its critic says and what its policy does."""

    def __init__(self, programs, learner, seed=0):
        self.params, statistics = jax.tree.map(lambda x: x[seed], (learner.params, learner.obs_statistics))
        self.policy, self.critic, self.normalise = programs.policy, programs.critic, statistics.normalise

    def value(self, *where):
        return float(self.critic.value(self.params["critic"], self.normalise(observation(*where))))

    def actions(self, *where):
        """4096 of them, as the environment is given them."""
        obs = jnp.broadcast_to(self.normalise(observation(*where)), (4096, ProbesTask.observation_size))
        noise = jax.random.normal(jax.random.key(9), (4096, *self.policy.noise_shape))
        action, _ = jax.jit(self.policy.sample)(self.params["policy"], obs, noise)
        return self.policy.squash(action)[:, 0]


def train(config, seeds=(0,)):
    """What is left of each seed after training on the probes."""
    programs = probe_programs(config, seeds, task=ProbesTask)
    state = programs.init()
    for _ in range(ITERATIONS):
        state, _ = jax.block_until_ready(programs.iterate(state))  # as training does: no queue of collectives
    return [Trained(programs, state.learner, index) for index in range(len(seeds))]


def as_probed(name):
    """An objective as the preset `cpu` has it, over small networks, fresh noise and the actions themselves."""
    start, _ = make_config("cpu", "BallInCup", name, "native")
    plain = {"hidden_sizes": (32, 32), "noise_correlation": 0.0, "action_noise": 0.0, "action_clip": None}
    policy = override(start.policy, {option: v for option, v in plain.items() if hasattr(start.policy, option)})
    learning = replace(LEARNING, reference_decay=start.learning.reference_decay)
    kept = {option: getattr(start, option) for option in ("objective", "beta", "regularisers")}
    return replace(COMMON, policy=policy, learning=learning, **kept)


@pytest.fixture(scope="module", params=METHODS)
def trained(request):
    return request.param, train(METHODS[request.param])[0]


def test_the_value_of_a_constant_reward_is_that_of_an_episode_without_end(trained):
    assert_allclose(trained[1].value("constant"), 1 / (1 - DISCOUNT), atol=0.05)


def test_a_value_depends_on_the_observation_where_the_reward_does(trained):
    assert_allclose([trained[1].value("observation", x) for x in (-1.0, 1.0)], [-1.0, 1.0], atol=0.05)


def test_a_reward_that_comes_a_step_later_is_worth_the_discount(trained):
    values = [trained[1].value("delayed", 1.0, step) for step in (0.0, 1.0)]
    assert_allclose(values, [DISCOUNT, 1.0], atol=0.05)


def test_the_best_action_of_each_observation_is_chosen(trained):
    for x in (-1.0, 1.0):
        actions = trained[1].actions("action", x)
        assert_allclose(actions.mean(), 0.5 * x, atol=0.1)
        assert jnp.square(actions - 0.5 * x).mean() < 0.05  # at the start it is .1 to .7
        assert_allclose(trained[1].value("action", x), 1.0, atol=0.05)


def best_rate_of_a_gaussian():
    """The most that tanh of any Gaussian earns a step in the bimodal probe: .109, of one centred at 0."""
    low, high = np.arctanh([MODE - HALF_WIDTH, MODE + HALF_WIDTH])
    mean, std = np.meshgrid(np.linspace(-1, 1, 81), np.linspace(0.05, 2, 118))
    p = norm.cdf(high, mean, std) - norm.cdf(low, mean, std)
    q = norm.cdf(-low, mean, std) - norm.cdf(-high, mean, std)
    return (2 * p * q / np.maximum(p + q, 1e-12)).max()


def test_a_flow_keeps_both_modes_of_a_bimodal_reward_and_a_gaussian_cannot(trained):
    """Half of all steps can be rewarded: a flow that hits one mode or the other three times in five earns .3."""
    method, policy = trained
    assert_allclose(best_rate_of_a_gaussian(), 0.109, atol=5e-4)
    for x in (-1.0, 1.0):
        rate = bimodal_rate(policy.actions("bimodal", x))
        assert rate > 0.3 if method == "fpo" else rate < 0.115  # of 4096 samples: .109 +- .005


@pytest.fixture(scope="module", params=OBJECTIVES)
def probed(request):
    return request.param, train(as_probed(request.param), (0, 1, 2))


def test_each_objectives_critic_has_the_known_values(probed):
    for seed in probed[1]:
        values = [seed.value("constant"), *(seed.value("observation", x) for x in (-1.0, 1.0))]
        values += [seed.value("delayed", 1.0, step) for step in (0.0, 1.0)]
        assert_allclose(values, [1 / (1 - DISCOUNT), -1.0, 1.0, DISCOUNT, 1.0], atol=0.08)


def test_an_objective_finds_the_best_action_if_that_is_said_of_it(probed):
    name, seeds = probed
    errors = [abs(float(seed.actions("action", x).mean()) - 0.5 * x) for seed in seeds for x in (-1.0, 1.0)]
    print(name, *(f"{error:.2f}" for error in errors))
    assert np.isfinite(errors).all()
    if name in FIND_BEST:
        assert max(errors) < FIND_BEST[name]


def test_each_objective_keeps_both_modes_as_well_as_is_said_of_it(probed):
    name, seeds = probed
    rates = [bimodal_rate(seed.actions("bimodal", x)) for seed in seeds for x in (-1.0, 1.0)]
    print(name, *(f"{rate:.2f}" for rate in rates))
    if name in BEST_RATES:
        assert max(rates) > BEST_RATES[name]
    else:
        low, high = RATES[name]
        assert low is None or min(rates) > low
        assert high is None or max(rates) < high


def test_no_bound_on_a_rate_holds_whatever_the_policy_does():
    """2 p q / (p + q) lies in [0, .5], as p + q is at most 1."""
    assert not RATES.keys() & BEST_RATES.keys() and RATES.keys() | BEST_RATES.keys() == set(OBJECTIVES)
    bounds = [bound for pair in RATES.values() for bound in pair]
    assert all(bound is None or 0.0 <= bound < 0.5 for bound in [*bounds, *BEST_RATES.values()])
    assert all(any(bound is not None for bound in pair) for pair in RATES.values())

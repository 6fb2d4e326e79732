"""--learning.kl-target: each method's KL against numbers worked by hand, the rule, and where the rate is kept."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from score_batches import field_scores
from small import BASE, of_objective

from dipod_jax.config import LearningConfig
from dipod_jax.objectives import OBJECTIVES
from dipod_jax.training import resuming
from dipod_jax.training.learner import adapted_rate
from dipod_jax.training.state import Tunables
from dipod_jax.types import Steps, make_scores

RATE = 3e-3


def scores(*losses, **parts):
    return make_scores(jnp.float32(losses))._replace(**parts)


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (0.0, 1.0),
        (0.004, 1.5),
        (0.005, 1.0),
        (0.01, 1.0),
        (0.02, 1.0),
        (0.021, 1 / 1.5),
        (np.inf, 1 / 1.5),
        (np.nan, 1.0),
    ],
)
def test_the_rate_rises_under_half_of_the_target_and_falls_over_twice(kl, factor):
    assert_allclose(adapted_rate(jnp.float32(RATE), jnp.float32(kl), 0.01), factor * RATE, rtol=1e-6)


def test_the_rate_stays_in_its_range():
    assert_allclose(adapted_rate(jnp.float32(9e-3), jnp.float32(1e-9), 0.01), 1e-2, rtol=1e-6)
    assert_allclose(adapted_rate(jnp.float32(1.1e-5), jnp.float32(1.0), 0.01), 1e-5, rtol=1e-6)


@pytest.mark.slow
def test_ppo_takes_the_gaussians_kl_in_closed_form():
    policy = of_objective("ppo").policy.build(2, 1)
    obs, action = jnp.ones((1, 2)), jnp.zeros((1, 1))
    new = policy.init(jax.random.key(0))
    old = jax.tree.map(lambda x: 1.5 * x, new)
    (mean, std), (mean_old, std_old) = (map(jnp.squeeze, policy.distribution(p, obs)) for p in (new, old))
    kl = np.log(std / std_old) + (std_old**2 + (mean_old - mean) ** 2) / (2 * std**2) - 0.5
    found = OBJECTIVES["ppo"]().divergence(*(policy.score(params, obs, action, ()) for params in (new, old)))
    assert found.shape == (1,) and kl > 1e-3
    assert_allclose(found, [kl], rtol=1e-4)


def test_a_chain_takes_the_sum_of_its_steps_kls():
    # d = 2, K = 2, noise of .1 in both: (.01^2 + 0) / .02 and (.02^2 + .01^2) / .02
    move = jnp.zeros((1, 2, 2))
    change = jnp.float32([[[0.01, 0.0], [0.02, 0.01]]])
    std = jnp.full((1, 2, 1), 0.1)
    new, old = (scores([0.0, 0.0], steps=Steps(m, std)) for m in (move + change, move))
    for name in ("dppo", "ddpo", "flow-grpo", "reinflow", "gsb-mdpo"):
        assert_allclose(OBJECTIVES[name]().divergence(new, old), [0.005 + 0.025], rtol=1e-4)


def test_policyflow_takes_its_codes_kl_in_a_mean_over_points():
    # sigma_old .2, sigma .1, u = .1 and 0: log(1 / 2) + (.04 + u^2) / .02 - 1 / 2
    weight = jnp.array([[0.5, 0.5]])
    steps = lambda shift, std: Steps(-jnp.float32([[[shift], [0.0]]]), jnp.full((1, 2, 1), std), weight)
    new, old = scores([0.0, 0.0], steps=steps(0.1, 0.1)), scores([0.0, 0.0], steps=steps(0.0, 0.2))
    by_hand = np.log(0.5) - 0.5 + (0.05 / 0.02 + 0.04 / 0.02) / 2
    assert_allclose(OBJECTIVES["policyflow"]().divergence(new, old), [by_hand], rtol=1e-5)


def test_a_bound_takes_k3_of_its_mean_and_methods_of_one_ratio_a_draw_k3_of_each():
    k3 = lambda z: np.exp(z) - 1.0 - z
    new, old = scores([1.0, 2.0]), scores([1.2, 2.4])
    for name in ("fpo", "espo", "gdpo", "bgpo", "spg", "gdsd", "dmpo", "wd1", "exact-ppo", "genpo"):
        assert_allclose(OBJECTIVES[name]().divergence(new, old), [k3(0.3)], rtol=1e-4)
    for name in ("d1", "coupled-grpo", "unigrpo"):
        assert_allclose(OBJECTIVES[name]().divergence(new, old), [(k3(0.2) + k3(0.4)) / 2], rtol=1e-4)


def test_fpopp_takes_the_change_of_predicted_noise_and_awm_that_of_velocity():
    time, velocity = [[0.5, 0.9]], jnp.zeros((1, 2, 2))
    change = jnp.float32([[[0.2, 0.0], [1.0, 1.0]]])
    new, old = (scores([0.0, 0.0], field=field_scores(v, time)) for v in (velocity + change, velocity))
    # draw 1: .25 x (.04 + 0) / 2, draw 2: .01 x 1
    assert_allclose(OBJECTIVES["fpo++"]().divergence(new, old), [(0.005 + 0.01) / 2], rtol=1e-5)
    assert_allclose(OBJECTIVES["awm"]().divergence(new, old), [(0.02 + 1.0) / 2], rtol=1e-5)


def test_an_exact_k3_is_the_kl_of_the_acting_policys_samples():
    # N(0, 1) acts, N(.3, 1) is present: KL = .3^2 / 2
    x = np.random.default_rng(0).standard_normal(400_000)
    new, old = (make_scores(jnp.float32(0.5 * (x - m) ** 2)[:, None]) for m in (0.3, 0.0))
    assert_allclose(OBJECTIVES["exact-ppo"]().divergence(new, old).mean(), 0.045, rtol=0.01)


def test_vrpo_takes_k3_of_the_action_taken_whatever_became_of_its_rival():
    taken = jnp.array([1.0, 0.0])  # weights of a pair's scores in their mean
    new, old = scores([1.0, 7.0], weight=taken), scores([1.3, 2.0], weight=taken)
    assert_allclose(OBJECTIVES["vrpo"]().divergence(new, old), [np.exp(0.3) - 1.0 - 0.3], rtol=1e-4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_method_can_have_a_target(name):
    config = of_objective(name)
    assert replace(config, learning=replace(config.learning, kl_target=0.01)).learning.kl_target == 0.01


def test_a_target_beside_a_schedule_and_one_of_0_are_refused():
    with pytest.raises(ValueError, match=r"--learning.final-learning-rate 0.0001 .*: none with --learning.kl-target"):
        LearningConfig(kl_target=0.01, final_learning_rate=1e-4)
    with pytest.raises(ValueError, match=r"--learning.kl-target 0"):
        LearningConfig(kl_target=0.0)


@pytest.mark.parametrize(("target", "rate"), [(None, RATE), (0.01, 7e-4)])
def test_a_run_that_goes_on_takes_the_rate_that_it_had_come_to(monkeypatch, target, rate):
    config = replace(BASE, learning=replace(BASE.learning, kl_target=target))
    saved = Tunables.of(config).with_rate(jnp.float32(7e-4))
    state = SimpleNamespace(learner=SimpleNamespace(tunables=saved, iteration=np.array([3])))
    for name, value in (
        ("latest_checkpoint", "somewhere"),
        ("restore_checkpoint", state),
        ("_find_holes", None),
    ):
        monkeypatch.setattr(resuming, name, lambda *args, value=value, **options: value)
    monkeypatch.setattr(resuming, "RunFolder", SimpleNamespace)
    taken = []
    programs = SimpleNamespace(
        abstract_state=lambda: None, with_tunables=lambda _, tunables: taken.append(tunables) or state
    )
    go_on_from = lambda *args, **options: None
    folder = SimpleNamespace(checkpoints=None, provenance={}, go_on_from=go_on_from, read_metrics=list)
    resuming.resume(config, folder, programs, print)
    assert_allclose([taken[0].learning_rate, taken[0].final_learning_rate], rate, rtol=1e-6)

"""Which family an objective trains, and that a family's scores come with what its options say."""

import jax
import jax.numpy as jnp
import pytest
from chains import ACTION, OBS, SMALL, acted, make, moved
from numpy.testing import assert_allclose

from dipod_jax.bounds import cfm_loss
from dipod_jax.objectives import OBJECTIVES
from dipod_jax.policies import POLICIES
from dipod_jax.policies.exact_flow import ExactFlowPolicy
from dipod_jax.policies.flow import FlowPolicy
from dipod_jax.policies.gaussian import GaussianPolicy


@pytest.mark.parametrize(
    ("objective", "kind"), [("fpo", FlowPolicy), ("exact-ppo", ExactFlowPolicy), ("ppo", GaussianPolicy)]
)
def test_the_objective_decides_the_kind_of_policy(objective, kind):
    assert type(POLICIES[OBJECTIVES[objective].policy]().build(OBS, ACTION)) is kind


@pytest.mark.parametrize("name", [name for name, family in POLICIES.items() if family.has_field])
def test_a_familys_scores_come_with_what_it_says(name):
    policy, params = make(POLICIES[name](**SMALL))
    obs, action, _, evidence = acted(policy, params)
    scores = jax.eval_shape(policy.score, params, obs, action, evidence)
    options = policy.options
    assert (scores.bound is not None) is options.has_bound
    assert (scores.steps is not None) is options.has_steps
    time, num_draws = scores.field.time, options.num_draws
    assert time.shape == scores.field.weight.shape == (*action.shape[:-1], num_draws)
    assert scores.field.velocity.shape == scores.field.denoised.shape == (*time.shape, ACTION)


@pytest.mark.parametrize("name", [name for name, family in POLICIES.items() if family.has_field])
def test_a_familys_field_is_what_its_bound_is_made_of_and_depends_on_its_parameters(name):
    policy, params = make(POLICIES[name](**SMALL, draws="gauss-legendre"))
    obs, action, trace, evidence = acted(policy, params)
    run = jax.jit(policy.score)
    scores, draws = run(params, obs, action, evidence), getattr(evidence, "draws", evidence)
    _, end = policy.ends(params, obs, action, trace)  # the action, or where the flow ends before more noise
    found = cfm_loss(scores.field.velocity, end, draws, form=policy.cfm.form, reduction=policy.cfm.reduction)
    assert_allclose(scores.field.mean(found), scores.bound, rtol=1e-5)
    assert_allclose(scores.field.weight.sum(-1), 1.0, rtol=1e-5)
    off = run(moved(params), obs, action, evidence).field
    assert float(jnp.abs(off.velocity - scores.field.velocity).min()) > 0.0

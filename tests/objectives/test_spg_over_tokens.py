"""SPG over tokens by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from dipod_jax.objectives.spg import Spg
from dipod_jax.types import Scores, TokenScores


def make_scores(log_prob: np.ndarray, coefficient: np.ndarray, scale: float = 1.0) -> Scores:
    num_draws = log_prob.shape[-2]
    loss = jnp.asarray(-scale * (log_prob * coefficient).sum(-1))
    tokens = TokenScores(jnp.asarray(log_prob), jnp.asarray(coefficient), jnp.full(log_prob.shape[:-2], scale))
    return Scores(loss, jnp.full(num_draws, 1 / num_draws), jnp.ones(loss.shape, bool), tokens=tokens)


LOG_PROB = np.log(np.array([[[0.5, 0.2, 0.9], [0.4, 0.7, 0.9]]] * 2, np.float32))  # (2 samples, 2 masks, 3 tokens)
COEFFICIENT = np.array([[[1.0, 1.0, 0.0], [2.0, 0.0, 0.0]]] * 2, np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_loss_by_hand(scale):
    """Token 1 is masked twice, token 2 once, token 3 never; b = 2, omega = .25, A = (3, -1)."""
    lower = 0.5 * (np.log(0.5) + np.log(0.2) + 2 * np.log(0.4))
    upper = 0.5 * (np.log(0.5 * 1 * 0.5**2 + 0.5 * 2 * 0.4**2) + np.log(0.5 * 1 * 0.2**2))
    scores = make_scores(LOG_PROB, COEFFICIENT, scale)
    loss, metrics = Spg(ratio="none", eubo_order=2.0, mix=0.25)(scores, scores, None, jnp.array([3.0, -1.0]))
    expected = -0.5 * scale * (3 * lower - (0.25 * upper + 0.75 * lower))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["sandwich_width"], scale * (upper - lower), rtol=1e-5)


def test_with_positive_advantages_it_is_the_weighted_elbo_whatever_the_order():
    scores = make_scores(LOG_PROB, COEFFICIENT)
    losses = [
        Spg(ratio="none", eubo_order=o, mix=1.0)(scores, scores, None, jnp.array([1.0, 2.0]))[0] for o in (1.0, 9.0)
    ]
    np.testing.assert_allclose(losses, [float((scores.mean() * jnp.array([1.0, 2.0])).mean())] * 2, rtol=1e-6)

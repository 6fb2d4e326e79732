"""The toy of the papers: a masked diffusion over {A, B}^2 in six logits (SPG's appendix, DiPOD section 4.1)."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dipod_jax.toys.methods import exact_gradients, gradient_cosine
from dipod_jax.toys.training import Array, Run, Settings, exact_bounds_fn, make_runs, train_run

OUTPUTS = ("AA", "AB", "BA", "BB")  # in the order of `space.make_space(2, 2).sequences`
REWARDS = (0.8, 1.0, 0.7, 1.0)
LOGIT_NAMES = ("P(x1=A|M,A)", "P(x1=A|M,M)", "P(x2=A|A,M)", "P(x2=A|M,M)", "P(x1=A|M,B)", "P(x2=A|B,M)")

# Which logit each of the 9 contexts (`dipod_jax.toys.space`: x1 + 3 x2, 0 masked, 1 A, 2 B) has for each position; -1,
# a logit of 0, where the position is already revealed.
_LOGIT_INDEX = ((1, 3), (-1, 2), (-1, 5), (0, -1), (-1, -1), (-1, -1), (4, -1), (-1, -1), (-1, -1))


def conditional_table(logits: jax.Array) -> jax.Array:
    """(9, 2, 2) log-probability of A and of B at each position in each context, from the six log-odds of A (6,)."""
    of_a = jnp.append(logits, 0.0)[np.array(_LOGIT_INDEX)]  # (9, 2)
    return jax.nn.log_sigmoid(jnp.stack([of_a, -of_a], axis=-1))


class TwoTokenDiffusion(nn.Module):
    """The six logits as a Flax module; `apply` returns their `conditional_table`.

    Any common value of the six makes every bound tight; DiPOD's text says "all 0.5" (logits), SPG's that the
    probabilities are 0.5 (logits 0).

    Attributes:
      init_logit: the common initial value, any finite float.

    Raises:
      ValueError: without 64-bit JAX: in float32 the gaps near a tight bound are rounding noise.
    """

    init_logit: float = 0.5

    @nn.compact
    def __call__(self) -> jax.Array:
        if jnp.result_type(float) != jnp.float64:
            raise ValueError("TwoTokenDiffusion is float64: call it inside `with jax.enable_x64(True):`")
        return conditional_table(self.param("logits", nn.initializers.constant(self.init_logit), (6,), jnp.float64))


class TwoTokenCurves(NamedTuple):
    """The quantities recorded at every step; leading axes (method, init, step), X = 4 outputs.

    Step s is the state after s updates, so there are steps + 1 of them.
    """

    mean_gap: Array  # (M, I, S+1) E_pi[log pi - ELBO]
    max_gap: Array  # (M, I, S+1) over outputs
    gap: Array  # (M, I, S+1, 4) log pi - ELBO
    upper_gap: Array  # (M, I, S+1, 4) EUBO - log pi
    expected_reward: Array  # (M, I, S+1)
    gradient_cosine: Array  # (M, I, S+1) proxy (without beta) against the true policy gradient
    logits: Array  # (M, I, S+1, 6)
    probabilities: Array  # (M, I, S+1, 4) of the outputs


def _record(settings: Settings, run: Run, params) -> TwoTokenCurves:
    gradients = exact_gradients(exact_bounds_fn(settings), params, run.proxy, run.reward, settings.baseline)
    bounds = gradients.bounds
    return TwoTokenCurves(
        mean_gap=bounds.prob @ bounds.lower_gap,
        max_gap=jnp.max(bounds.lower_gap),
        gap=bounds.lower_gap,
        upper_gap=bounds.upper_gap,
        expected_reward=bounds.prob @ run.reward,
        gradient_cosine=gradient_cosine(gradients.proxy, gradients.policy),
        logits=params["params"]["logits"],
        probabilities=bounds.prob,
    )


@jax.jit
@partial(jax.vmap, in_axes=(None, 0, 0))
def _train(settings: Settings, run: Run, params) -> TwoTokenCurves:
    return train_run(settings, run, params, partial(_record, settings, run))[0]


def train(
    methods: Sequence[str],
    init_logits: Sequence[float],
    *,
    beta: float = 0.2,
    reward: Sequence[float] = REWARDS,
    **changes: Any,
) -> TwoTokenCurves:
    """Train every method from every initialisation with exact gradients, in float64.

    Each step ascends `sum_x pi(x) A(x) grad S(x) + beta sum_x pi(x) grad ELBO(x)`, the second term for the
    `+dipod` methods only (eq. 7); pi and A are those of the current parameters and are not differentiated.

    Args:
      methods: M names of `options.METHODS`.
      init_logits: I common initial values of the six logits.
      beta: weight of the regulariser, >= 0.
      reward: of the four outputs, in the order of `OUTPUTS`.
      changes: fields of `training.Settings`; the defaults are 1500 steps at rate 0.1.

    Returns:
      TwoTokenCurves of numpy arrays, leading axes (M, I, steps + 1).

    Raises:
      ValueError: for an unknown method or baseline. KeyError: for an unknown EUBO or optimiser.
    """
    settings = Settings(TwoTokenDiffusion(), 2, 2, **{"steps": 1500, "learning_rate": 0.1, "record_every": 1} | changes)
    shape = len(methods), len(init_logits)
    runs = make_runs(np.repeat(methods, shape[1]), beta, reward, 0)
    logits = np.tile(np.asarray(init_logits, np.float64)[:, None], (shape[0], 6))  # (M I, 6)
    with jax.enable_x64(True):
        curves = _train(settings, runs, {"params": {"logits": logits}})
        return jax.tree.map(lambda x: np.asarray(x).reshape(*shape, *x.shape[1:]), curves)

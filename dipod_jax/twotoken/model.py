"""A masked diffusion over {A, B}^2 in six logits (SPG appendix, DiPOD section 4.1)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

OUTPUTS = ("AA", "AB", "BA", "BB")
REWARDS = (0.8, 1.0, 0.7, 1.0)
LOGIT_NAMES = ("P(x1=A|M,A)", "P(x1=A|M,M)", "P(x2=A|A,M)", "P(x2=A|M,M)", "P(x1=A|M,B)", "P(x2=A|B,M)")

# For output x, position i and context (0: the other token is masked, 1: it is revealed), which logit says how
# likely A is at i. Rows follow OUTPUTS; LOGIT_NAMES explains the numbers.
_LOGIT_INDEX = (
    ((1, 0), (3, 2)),  # AA
    ((1, 4), (3, 2)),  # AB: x1 = A beside a revealed B is logit 4
    ((1, 0), (3, 5)),  # BA: x2 = A beside a revealed B is logit 5
    ((1, 4), (3, 5)),  # BB
)
# +1 where the token is A, -1 where it is B: log P(B) = log sigmoid(-logit).
_TOKEN_SIGN = ((1, 1), (1, -1), (-1, 1), (-1, -1))


def conditional_log_probs(logits: jax.Array) -> jax.Array:
    """Log-probability of each token of each output, given the other token masked or revealed.

    Args:
      logits: (6,), log-odds of A in the order of `LOGIT_NAMES`.

    Returns:
      (4, 2, 2): output x, position i, context (0 the other token is masked, 1 it is revealed).
    """
    sign = jnp.asarray(_TOKEN_SIGN, logits.dtype)[:, :, None]  # (4, 2, 1)
    return jax.nn.log_sigmoid(sign * logits[jnp.asarray(_LOGIT_INDEX)])


def order_log_probs(conditionals: jax.Array) -> jax.Array:
    """Log-probability of each output when its positions are unmasked in the order (1, 2) and in the order (2, 1).

    `w1 = p(x1|MM) p(x2|x1 M)` and `w2 = p(x2|MM) p(x1|M x2)`; the sampler picks either with probability 1/2.

    Args:
      conditionals: (..., 2, 2), from `conditional_log_probs`.

    Returns:
      (..., 2): log w1, log w2.
    """
    first, second = conditionals[..., 0, :], conditionals[..., 1, :]  # position 1, position 2: (..., 2)
    return jnp.stack([first[..., 0] + second[..., 1], second[..., 0] + first[..., 1]], axis=-1)


class TwoTokenDiffusion(nn.Module):
    """The six logits as a Flax module.

    `apply` returns `conditional_log_probs` of its logits, (4, 2, 2). Any common value of the six makes every
    bound tight; DiPOD's text says "all 0.5" (logits), SPG's that the probabilities are 0.5 (logits 0).

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
        logits = self.param("logits", nn.initializers.constant(self.init_logit), (6,), jnp.float64)
        return conditional_log_probs(logits)

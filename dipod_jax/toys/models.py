"""Conditionals of every context at once: a table, or a small transformer. Both start tight (uniform)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dipod_jax.toys.space import all_contexts


class ConditionalTable(nn.Module):
    """One row of logits per (context, position): the most general masked diffusion over V^L.

    `apply` returns log p(token | context) at every position, (Z, L, V); a revealed position's row is unused. With
    L = V = 2 it is the two-token toy, where a pair of logits stands for the one log-odds (so that half the step
    size gives the same path under plain gradient ascent).

    Attributes:
      length: L. vocab_size: V.
      init_scale: standard deviation of the initial logits; at 0 all conditionals are uniform and all bounds tight.
    """

    length: int
    vocab_size: int
    init_scale: float = 0.0

    @nn.compact
    def __call__(self) -> jax.Array:
        shape = ((self.vocab_size + 1) ** self.length, self.length, self.vocab_size)
        dtype = jnp.result_type(float)
        return jax.nn.log_softmax(self.param("logits", nn.initializers.normal(self.init_scale), shape, dtype))


class TinyTransformer(nn.Module):
    """A pre-norm transformer over the L tokens of every context, with parameters shared between contexts.

    `apply` returns log p(token | context), (Z, L, V), for all contexts in one batch. The head starts at 0, so the
    conditionals start uniform and the bounds tight.

    Attributes:
      length: L. vocab_size: V. width: of the residual stream. num_heads: attention heads. num_layers: blocks.
    """

    length: int
    vocab_size: int
    width: int = 16
    num_heads: int = 2
    num_layers: int = 2

    @nn.compact
    def __call__(self) -> jax.Array:
        dtype = jnp.result_type(float)
        tokens = jnp.asarray(all_contexts(self.length, self.vocab_size))  # (Z, L)
        position = self.param("position", nn.initializers.normal(0.02), (self.length, self.width), dtype)
        x = nn.Embed(self.vocab_size + 1, self.width, param_dtype=dtype)(tokens) + position  # (Z, L, width)
        for _ in range(self.num_layers):
            h = nn.LayerNorm(param_dtype=dtype)(x)
            x = x + nn.MultiHeadDotProductAttention(self.num_heads, param_dtype=dtype)(h)
            h = nn.LayerNorm(param_dtype=dtype)(x)
            h = nn.gelu(nn.Dense(4 * self.width, param_dtype=dtype)(h))
            x = x + nn.Dense(self.width, param_dtype=dtype)(h)
        logits = nn.Dense(self.vocab_size, kernel_init=nn.initializers.zeros, param_dtype=dtype)(
            nn.LayerNorm(param_dtype=dtype)(x)
        )
        return jax.nn.log_softmax(logits)


MODELS = {"table": ConditionalTable, "transformer": TinyTransformer}

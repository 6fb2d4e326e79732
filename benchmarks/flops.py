"""Floating-point operations of the networks' matrix products, by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

# Backward multiplies every layer's inputs and its weights with the arriving gradient: two products of forward's size.
# (The gradient of the network's own inputs is not computed, which this leaves out: 1 to 3 % too many here.)
GRADIENT_OVER_FORWARD = 3


def mlp_forward(batch: int, sizes: Sequence[int]) -> int:
    """2 B sum(in * out) over the layers; `sizes` holds the input, hidden and output sizes. No bias, no activation."""
    return 2 * batch * sum(a * b for a, b in itertools.pairwise(sizes))


def critic_forward(batch: int, observation_size: int, hidden_sizes: Sequence[int]) -> int:
    """V(obs) for a batch."""
    return mlp_forward(batch, (observation_size, *hidden_sizes, 1))


def policy_loss_forward(
    batch: int, num_draws: int, observation_size: int, action_size: int, hidden_sizes: Sequence[int], embedding: int
) -> int:
    """The velocity field at N draws of each of B actions; the observation's part of the first layer once an action."""
    first = hidden_sizes[0]
    shared = mlp_forward(batch, (observation_size, first))
    per_draw = 2 * (action_size + embedding) * first + mlp_forward(1, (*hidden_sizes, action_size))
    return shared + batch * num_draws * per_draw

"""The token policy: a masked diffusion that fills the blanks of a prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dipod_jax.bounds.any_order import (
    blank_positions,
    elbo,
    eubo_per_token,
    log_order_mean,
    make_subsets,
    subset_contexts,
)
from dipod_jax.bounds.mask_draws import (
    PAIRED,
    MaskDraws,
    MaskPlacement,
    draw_losses,
    mask_draw_weights,
    sample_mask_draws,
)
from dipod_jax.checks import Checked
from dipod_jax.language.decoder_likelihood import decoder_log_prob
from dipod_jax.language.decoding import DecoderOptions, decode, noise_shape
from dipod_jax.language.model import token_log_probs
from dipod_jax.language.task import MASK
from dipod_jax.types import Params, Scores, TokenScores, Trace


@dataclass(frozen=True)
class MaskedOptions:
    """How a masked diffusion acts, and how its scores are computed."""

    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    draws: MaskPlacement = "uniform"
    """the masks at which scores are computed (`dipod_jax.bounds.mask_draws`); floor and gdpo are biased, as in the
    released code"""
    num_draws: int = 4
    """N, masks of each sequence, >= 1"""
    scores: Literal["sequence", "token"] = "sequence"
    """one score per mask, an estimate of the sequence's negative ELBO; or one per token, summed over masks"""
    prompt_masking: float = 0.0
    """probability that a given (prompt) token is hidden in the context of a score (d1: .15), 0 to 1"""
    length_normalised: bool = False
    """whether the scores and bound of a sequence are divided by its number of blanks (SPG, ESPO, GDPO); with scores per
    token the bound always is"""
    bound_draws: int = 0
    """number of `uniform` masks for a separate bound, >= 0; 0: the bound uses the masks of the scores"""

    def validate(self) -> None:
        """Refuse options out of range, with one line."""
        self.decoder.validate()
        check = Checked(self, "policy")
        check.choices()
        check.number("num_draws", low=1)
        check.number("bound_draws")
        check.number("prompt_masking", high=1.0)
        paired = self.draws not in PAIRED or self.num_draws % 2 == 0
        check.require(paired, "num_draws", f"an even number, since {self.draws} draws come in pairs")
        check.require(self.draws != "coupled-grpo" or self.num_draws == 3, "num_draws", "3 with coupled-grpo draws")


class MaskedEvidence(NamedTuple):
    """The masks at which sequences are scored."""

    score: MaskDraws
    bound: MaskDraws | None


class ExactBounds(NamedTuple):
    """Exact quantities of a sequence with few blanks, each (...) in nats."""

    log_prob: jax.Array  # under random order, one token a step, temperature 1: what the bounds are of
    elbo: jax.Array
    eubo: jax.Array  # per token (SPG's), without its constant
    renyi: jax.Array  # of order 2: never below log_prob
    decoder_log_prob: jax.Array  # of the decoder that acts; NaN at temperature 0
    valid: jax.Array  # bool: the prompt has as many blanks as the tables


class MaskedPolicy:
    """pi(x | prompt): the tokens that a decoder writes into the blanks of a prompt, using a network of conditionals.

    An observation is a prompt (..., L) of tokens, 0 where blank; an action is the completed sequence (..., L). The
    evidence of a score is a set of masks, shared by the old, new and reference scores. `Scores.loss @ weight` is an
    estimate of the negative ELBO of the sequence, summed over its tokens; with scores per token it is divided by the
    largest number of blanks, so that beside longer answers a short one weighs less (d1's code divides by its own).
    """

    score_name = "negative_elbo"

    def __init__(self, options: MaskedOptions, network: nn.Module, length: int, num_blanks: int):
        """Args:
        network: tokens (..., L) of 0..V -> logits (..., L, V).
        length: L.
        num_blanks: the largest number of blanks in a prompt.
        """
        self.options, self.network = options, network
        self.action_size, self.num_blanks = length, num_blanks
        self.draw_weights = mask_draw_weights(options.draws, options.num_draws)  # (N,)
        self.noise_shape = noise_shape(options.decoder, length, num_blanks)

    def init(self, key: jax.Array) -> Params:
        """Parameters of the network."""
        return self.network.init(key, jnp.zeros((1, self.action_size), jnp.int32))

    def logits(self, params: Params, tokens: jax.Array) -> jax.Array:
        """(..., L, V) of tokens (..., L) with masks."""
        return self.network.apply(params, tokens)  # pyright: ignore[reportReturnType]

    def sample(self, params: Params, obs: jax.Array, noise: jax.Array) -> tuple[jax.Array, Trace]:
        """Completed sequence (..., L), and the step that filled each position (..., L), -1 where it was given."""
        return decode(lambda tokens: self.logits(params, tokens), obs, noise, self.options.decoder)

    def squash(self, action: jax.Array) -> jax.Array:
        """The action itself."""
        return action

    def prepare(self, params: Params, key: jax.Array, obs: jax.Array, trace: Trace) -> MaskedEvidence:
        """Masks of each sequence's blanks."""
        del params, trace
        options, blank = self.options, obs == MASK
        score_key, bound_key = jax.random.split(key)
        score = sample_mask_draws(
            score_key, blank, options.num_draws, placement=options.draws, prompt_masking=options.prompt_masking
        )
        if options.bound_draws == 0:
            return MaskedEvidence(score, None)
        return MaskedEvidence(score, sample_mask_draws(bound_key, blank, options.bound_draws, placement="uniform"))

    def score(self, params: Params, obs: jax.Array, action: jax.Array, evidence: MaskedEvidence) -> Scores:
        """N losses per sequence, one per mask; or L, one per blank."""
        draws, blank = evidence.score, obs == MASK
        by_token = self.options.scores == "token"
        per_blank = 1.0 / blank.sum(-1)
        scale = per_blank if by_token or self.options.length_normalised else jnp.ones_like(per_blank)
        log_prob = self._log_probs(params, action, draws)  # (..., N, P)
        losses = scale[..., None] * draw_losses(log_prob, draws)  # (..., N)
        bound = losses @ self.draw_weights
        if evidence.bound is not None:
            beside = draw_losses(self._log_probs(params, action, evidence.bound), evidence.bound)
            bound = scale * beside.mean(-1)
        loss, weight, known = losses, self.draw_weights, jnp.ones_like(losses, bool)
        if by_token:
            loss, weight, known = self._by_token(log_prob, draws, blank)
        tokens = TokenScores(log_prob, draws.coefficient, scale)
        return Scores(loss, weight, known, bound, tokens=tokens)

    def _log_probs(self, params: Params, action: jax.Array, draws: MaskDraws) -> jax.Array:
        """(..., N, P) log-probability of each token of the action under each mask."""
        tokens = action[..., None, :]
        return token_log_probs(self.logits(params, jnp.where(draws.hidden, MASK, tokens)), tokens)

    def _by_token(
        self, log_prob: jax.Array, draws: MaskDraws, blank: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Losses (..., L) of the blanks, summed over masks; a blank that no mask hides is unknown."""
        positions, is_blank = blank_positions(blank, self.num_blanks)
        weight = draws.coefficient * self.draw_weights[:, None]
        of_position = -jnp.sum(weight * log_prob, axis=-2)  # (..., P)
        seen = (weight > 0).any(-2)
        known = jnp.take_along_axis(seen, positions, axis=-1) & is_blank
        loss = jnp.where(known, jnp.take_along_axis(of_position, positions, axis=-1), 0.0)
        return loss, jnp.full(self.num_blanks, 1.0 / self.num_blanks), known

    def entropy(self, params: Params, obs: jax.Array, noise: jax.Array) -> None:
        """None: with few blanks, estimate it from `exact` as minus the mean log-likelihood of the policy's own
        samples."""
        del params, obs, noise

    def exact(self, params: Params, obs: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Exact log-likelihood (...) under random order, one token per step at temperature 1, and whether it is valid.

        It is of the distribution that the ELBO bounds; the decoder's own is in `exact_bounds`. It is exact for prompts
        with fewer blanks than the policy allows, too.
        """
        table, _, _ = self._subset_table(params, obs, action)
        return log_order_mean(table), ((obs == MASK).sum(-1) <= self.num_blanks) & (action != MASK).all(-1)

    def exact_bounds(self, params: Params, obs: jax.Array, action: jax.Array, eubo_order: float = 1.5) -> ExactBounds:
        """All exact quantities at once, from the 2^L contexts of each sequence (..., P) with `num_blanks` blanks."""
        table, logits, words = self._subset_table(params, obs, action)
        log_prob = log_order_mean(table)
        decoder = self.options.decoder
        acted = jnp.full_like(log_prob, jnp.nan)
        if decoder.temperature > 0:
            acted = decoder_log_prob(logits, words, decoder)
        valid = ((obs == MASK).sum(-1) == self.num_blanks) & (action != MASK).all(-1)
        return ExactBounds(
            log_prob, elbo(table), eubo_per_token(table, eubo_order), log_order_mean(table, 2.0), acted, valid
        )

    def _subset_table(
        self, params: Params, obs: jax.Array, action: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """log p of each blank's token in each context (..., S, L), the logits there (..., S, L, V), tokens (..., L).

        One sequence at a time, recomputed for the gradient: 2^L contexts of many sequences would not fit a cache.
        """
        masked = jnp.asarray(make_subsets(self.num_blanks).masked)

        @jax.checkpoint
        def one(pair):
            prompt, tokens = pair
            positions, is_blank = blank_positions(prompt == MASK, self.num_blanks)
            contexts = subset_contexts(tokens, prompt == MASK, self.num_blanks, MASK)
            logits = jnp.take(self.logits(params, contexts), positions, axis=-2)  # (S, L, V)
            words = tokens[positions]
            return jnp.where(masked & is_blank, token_log_probs(logits, words), 0.0), logits, words

        batch = action.shape[:-1]
        flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), (obs, action))
        return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), jax.lax.map(one, flat))

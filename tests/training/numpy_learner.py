"""One whole update once more, in float64 numpy: loops over steps and rows, and gradients written out by hand.

It shares with the library only the random numbers, that is which row comes when, and which noise an entropy and a bound
are estimated with. Networks have one hidden layer of tanh.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

ADAM_DECAYS, ADAM_EPSILON, MIN_STD = (0.9, 0.999), 1e-8, 1e-3
TIMES = 8  # features of t


def layers(params):
    """[kernel, bias, kernel, bias] in float64 of an MLP's or a velocity field's two layers."""
    p = params["params"]
    if "MLP_0" in p:
        first, last = (p["input_kernel"], p["input_bias"]), p["MLP_0"]["Dense_0"]
    else:
        first, last = (p["Dense_0"]["kernel"], p["Dense_0"]["bias"]), p["Dense_1"]
    return [np.float64(x) for x in (*first, last["kernel"], last["bias"])]


def forward(net, x):
    """Output (..., O) and the hidden layer (..., H)."""
    hidden = np.tanh(x @ net[0] + net[1])
    return hidden @ net[2] + net[3], hidden


def backward(net, x, hidden, output_gradient):
    """Gradient in the four arrays, summed over rows."""
    x, hidden, g = (a.reshape(-1, a.shape[-1]) for a in (x, hidden, output_gradient))
    inner = (g @ net[2].T) * (1.0 - hidden**2)
    return [x.T @ inner, inner.sum(0), hidden.T @ g, g.sum(0)]


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


class Gaussian:
    """Rows are (obs, action); the only score of a row is -log N(action; mean, std), its noise is the entropy's."""

    def prepare(self, learner, key, obs):
        return np.zeros((*obs.shape[:-1], 0)), np.zeros((*obs.shape[:-1], 0, 0))

    def noise(self, learner, key, shape):
        return np.float64(jax.random.normal(key, (*shape, *learner.policy.noise_shape)))

    def scores(self, net, obs, action, t, eps):
        mean, std, _ = self._distribution(net, obs)
        return (0.5 * ((action - mean) / std) ** 2 + np.log(std) + 0.5 * np.log(2 * np.pi)).sum(-1)[..., None]

    def _distribution(self, net, obs):
        output, hidden = forward(net, obs)
        mean, raw = np.split(output, 2, axis=-1)
        return mean, np.log1p(np.exp(raw)) + MIN_STD, (raw, hidden)

    def entropy(self, net, obs, noise):
        mean, std, _ = self._distribution(net, obs)
        z = mean + std * noise
        return (0.5 * np.log(2 * np.pi * np.e) + np.log(std) + np.log(1.0 - np.tanh(z) ** 2)).sum(-1)

    def gradient(self, net, obs, action, t, eps, noise, score_gradient, entropy_gradient):
        """Of sum(score * score_gradient) + sum(entropy * entropy_gradient); gradients (..., 1) and ()."""
        mean, std, (raw, hidden) = self._distribution(net, obs)
        d_mean = -(action - mean) / std**2 * score_gradient
        d_std = (1.0 / std - (action - mean) ** 2 / std**3) * score_gradient
        slope = -2.0 * np.tanh(mean + std * noise)  # of log(1 - tanh(z)^2)
        d_mean = d_mean + entropy_gradient * slope
        d_std = d_std + entropy_gradient * (1.0 / std + slope * noise)
        return backward(net, obs, hidden, np.concatenate([d_mean, d_std * sigmoid(raw)], -1))


class Flow:
    """Scores (..., N) are mean_d ((x_t + (1 - t) v) - eps)^2 at the stored draws; there is no entropy."""

    def prepare(self, learner, key, obs):
        draws = learner.policy.sample_draws(key, obs.shape[:-1])
        return np.float64(draws.t), np.float64(draws.eps)

    def noise(self, learner, key, shape):
        return np.zeros((*shape, 0))

    def _error(self, net, obs, action, t, eps):
        t = t[..., None]
        x = (1.0 - t) * action[..., None, :] + t * eps
        angles = t * 2.0 ** np.arange(TIMES // 2)
        rows = np.broadcast_to(obs[..., None, :], (*x.shape[:-1], obs.shape[-1]))
        inputs = np.concatenate([rows, x, np.cos(angles), np.sin(angles)], -1)
        output, hidden = forward(net, inputs)
        return x + (1.0 - t) * 0.25 * output - eps, inputs, hidden

    def scores(self, net, obs, action, t, eps):
        return (self._error(net, obs, action, t, eps)[0] ** 2).mean(-1)

    def entropy(self, net, obs, noise):
        return np.zeros(obs.shape[:-1])

    def gradient(self, net, obs, action, t, eps, noise, score_gradient, entropy_gradient):
        error, inputs, hidden = self._error(net, obs, action, t, eps)
        g = 2.0 * error / error.shape[-1] * 0.25 * (1.0 - t[..., None]) * score_gradient[..., None]
        return backward(net, inputs, hidden, g)


def numpy_gae(reward, value, next_value, terminated, truncated, gamma, lam):
    """Advantage and value target of one environment (T,)."""
    advantage, later = np.zeros(len(reward)), 0.0
    for t in reversed(range(len(reward))):
        delta = reward[t] + (0.0 if terminated[t] else gamma * next_value[t]) - value[t]
        later = delta + (0.0 if terminated[t] or truncated[t] else gamma * lam * later)
        advantage[t] = later
    return advantage, advantage + value


def numpy_brax_gae(reward, value, last_value, terminated, truncated, gamma, lam):
    """The same after Brax: nothing is learned from a truncated step, the advantage looks at the next target."""
    steps = len(reward)
    target, advantage = np.append(value, last_value), np.zeros(steps)
    values = np.append(value, last_value)
    for t in reversed(range(steps)):
        if not truncated[t]:
            ahead = 0.0 if terminated[t] else gamma * ((1 - lam) * values[t + 1] + lam * target[t + 1])
            target[t] = reward[t] + ahead
            advantage[t] = reward[t] + (0.0 if terminated[t] else gamma * target[t + 1]) - value[t]
    return advantage, target[:-1]


@dataclass
class NumpyLearner:
    """The parameters, Adam's moments and the metrics of every gradient step."""

    learner: object  # for its options and its random draws
    family: Gaussian | Flow
    params: dict
    reference: list
    mean: np.ndarray
    std: np.ndarray
    rate: float
    blocks: int

    def __post_init__(self):
        self.params = {name: list(net) for name, net in self.params.items()}
        zeros = lambda: {name: [np.zeros_like(x) for x in net] for name, net in self.params.items()}
        self.first, self.second, self.num_steps, self.metrics = zeros(), zeros(), 0, []
        self.clipped = {name: [] for name in self.params}

    def update(self, rollout, key):
        """All epochs; rollout leaves are numpy (T, B, ...)."""
        c = self.learner.config.learning
        segments = c.advantages == "minibatch"
        self.obs, self.next_obs = ((np.float64(x) - self.mean) / self.std for x in (rollout.obs, rollout.next_obs))
        self.action, self.reward = np.float64(rollout.action), c.reward_scale * np.float64(rollout.reward)
        self.terminated, self.truncated = rollout.terminated, rollout.truncated
        draws_key, shuffle_key, entropy_key = jax.random.split(key, 3)
        drawn = self.family.prepare(self.learner, draws_key, self.obs.swapaxes(0, 1))  # environment by environment
        self.draws = tuple(x.swapaxes(0, 1) for x in drawn)
        score = lambda net: self.family.scores(net, self.obs, self.action, *self.draws)
        self.old, self.kept = score(self.params["policy"]), score(self.reference)
        if not segments:
            self.estimate = self._iteration_estimate()
        steps, envs = self.reward.shape
        length = c.unroll_length if segments else 1
        # a column is one environment's consecutive steps
        columns = [(slice(u, u + length), b) for b in range(envs) for u in range(0, steps, length)]
        pairs = zip(*(jax.random.split(k, c.num_epochs) for k in (shuffle_key, entropy_key)), strict=True)
        for shuffle, entropy in pairs:
            # as many blocks of environments as divide environments and minibatch, and each of them shuffled
            blocks, size = self.blocks, len(columns) // self.blocks
            shuffled = [
                np.argsort(jax.random.bits(k, (size,)), kind="stable") for k in jax.random.split(shuffle, blocks)
            ]
            order = np.stack([b * size + one for b, one in enumerate(shuffled)])
            parts = order.reshape(blocks, -1, c.minibatch_size // length // blocks).swapaxes(0, 1)
            parts = parts.reshape(len(parts), -1)
            for part, noise_key in zip(parts, jax.random.split(entropy, len(parts)), strict=True):
                shape = (len(part), length) if segments else (len(part),)
                noise = self.family.noise(self.learner, noise_key, shape).reshape(len(part), length, -1)
                self._step([columns[i] for i in part], noise.swapaxes(0, 1))
        decay = c.reference_decay
        policy = self.params["policy"]
        self.reference = [decay * a + (1 - decay) * b for a, b in zip(self.reference, policy, strict=True)]

    def _value(self, obs):
        return forward(self.params["critic"], obs)[0][..., 0]

    def _standardised(self, advantage):
        bound = self.learner.config.learning.advantage_clip
        return np.clip((advantage - advantage.mean()) / advantage.std(), -bound, bound)

    def _iteration_estimate(self):
        """Advantage, target and weight (T, B) once for all minibatches, by the critic that acted."""
        c = self.learner.config.learning
        data = self.reward, self._value(self.obs), self._value(self.next_obs), self.terminated, self.truncated
        found = [numpy_gae(*(x[:, b] for x in data), c.discount, c.gae_lambda) for b in range(self.reward.shape[1])]
        advantage, target = (np.stack(x, 1) for x in zip(*found, strict=True))
        return self._standardised(advantage), target, np.ones_like(target)

    def _minibatch_estimate(self, obs, next_obs, reward, *ends):
        """The same of the segments (U, M) of one minibatch, by the present critic."""
        c = self.learner.config.learning
        value, last = self._value(obs), self._value(next_obs[-1])
        found = [
            numpy_brax_gae(reward[:, m], value[:, m], last[m], *(x[:, m] for x in ends), c.discount, c.gae_lambda)
            for m in range(reward.shape[1])
        ]
        advantage, target = (np.stack(x, 1) for x in zip(*found, strict=True))
        return self._standardised(advantage), target, 1.0 - ends[1]

    def _step(self, columns, noise):
        """One gradient step on columns, each a slice of one environment."""
        c, take = self.learner.config.learning, lambda x: np.stack([x[where] for where in columns], 1)
        obs, action, draws = take(self.obs), take(self.action), tuple(map(take, self.draws))
        if c.advantages == "iteration":
            advantage, target, weight = map(take, self.estimate)
        else:
            data = self.next_obs, self.reward, self.terminated, self.truncated
            advantage, target, weight = self._minibatch_estimate(obs, *map(take, data))
        policy_gradient, found = self._policy_gradient(
            obs, action, draws, noise, advantage, take(self.old).mean(-1), take(self.kept).mean(-1)
        )
        value, hidden = forward(self.params["critic"], obs)
        error = (target - value[..., 0]) * weight
        slope = -2.0 * c.value_coefficient * error * weight / error.size
        critic_gradient = backward(self.params["critic"], obs, hidden, slope[..., None])
        norm = np.sqrt(sum((g**2).sum() for g in policy_gradient))
        self.metrics.append(found | {"value_loss": (error**2).mean(), "policy_gradient_norm": norm})
        self.num_steps += 1
        self._descend("policy", policy_gradient, c.policy_gradient_clip, ADAM_DECAYS[1])
        self._descend("critic", critic_gradient, c.critic_gradient_clip, c.critic_second_moment_decay)

    def _policy_gradient(self, obs, action, draws, noise, advantage, old, kept):
        """Gradient of -mean min(rho A, clip(rho) A) - w mean(H) + beta mean(bound) + k mean(l_ref - l)^2 / 2."""
        config, net = self.learner.config, self.params["policy"]
        scores = self.family.scores(net, obs, action, *draws)
        new, count = scores.mean(-1), advantage.size
        ratio, epsilon = np.exp(old - new), config.objective.clip_epsilon
        flat = ((advantage > 0) & (ratio > 1 + epsilon)) | ((advantage < 0) & (ratio < 1 - epsilon))
        surrogate = np.minimum(ratio * advantage, np.clip(ratio, 1 - epsilon, 1 + epsilon) * advantage)
        in_score = np.where(flat, 0.0, ratio * advantage) + config.beta - config.regularisers.k2.weight * (kept - new)
        in_score = np.broadcast_to(in_score[..., None] / scores.shape[-1] / count, scores.shape)
        weight = config.regularisers.entropy.weight
        gradient = self.family.gradient(net, obs, action, *draws, noise, in_score, -weight / count)
        metrics = {
            "policy_loss": -surrogate.mean(),
            "loss_change": (new - old).mean(),
            "clip_fraction": (np.abs(ratio - 1) > epsilon).mean(),
            "entropy": self.family.entropy(net, obs, noise).mean(),
        }
        return gradient, metrics

    def _descend(self, name, gradient, bound, b2):
        """Clip the norm, then Adam."""
        norm = np.sqrt(sum((g**2).sum() for g in gradient))
        self.clipped[name].append(norm > bound)
        b1, n = ADAM_DECAYS[0], self.num_steps
        for i, g in enumerate(gradient):
            g = g * min(1.0, bound / norm)
            self.first[name][i] = b1 * self.first[name][i] + (1 - b1) * g
            self.second[name][i] = b2 * self.second[name][i] + (1 - b2) * g**2
            scale = np.sqrt(self.second[name][i] / (1 - b2**n)) + ADAM_EPSILON
            self.params[name][i] = self.params[name][i] - self.rate * self.first[name][i] / (1 - b1**n) / scale

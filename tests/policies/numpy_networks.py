"""The policies' networks once more, in float64 numpy, and a batch to feed them."""

import numpy as np

OBS, ACTION = 5, 3
SMALL = dict(hidden_sizes=(16, 12), num_steps=4, num_draws=6)


def numpy_silu(x):
    return x / (1.0 + np.exp(-x))


def numpy_mlp(layers, x):
    for index, (kernel, bias) in enumerate(layers):
        x = x @ kernel + bias
        if index < len(layers) - 1:
            x = numpy_silu(x)
    return x


def dense_layers(params):
    """Kernels and biases of Dense_0, Dense_1, ... in float64."""
    return [(np.float64(params[n]["kernel"]), np.float64(params[n]["bias"])) for n in sorted(params)]


def numpy_velocity(params, obs, x, t, options):
    """A plain network on the concatenation [obs, x_t, cos(t 2^k), sin(t 2^k)] (FPO's code), in float64."""
    p = params["params"]
    k = np.arange(options.time_embedding_size // 2)
    angles = np.asarray(t, np.float64)[..., None] * 2.0**k
    inputs = np.concatenate([obs, x, np.cos(angles), np.sin(angles)], axis=-1)
    first = np.float64(p["input_kernel"]), np.float64(p["input_bias"])
    learned = options.output_scale * numpy_mlp([first, *dense_layers(p["MLP_0"])], inputs)
    t = np.asarray(t, np.float64)[..., None]
    base = (2 * t - 1) / (t**2 + (1 - t) ** 2) * x
    return learned + {"zero": 0.0, "gaussian": base}[options.base_velocity]


def batch(shape=(7,), seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*shape, OBS)), rng.standard_normal((*shape, ACTION)), rng.random(shape)

"""The exact two-token masked diffusion: every likelihood, bound, gap and gradient in closed form, in float64.

`options`     names of methods, baselines, bounds and optimisers (no JAX: a command line can validate without it)
`model`       the six logits as a Flax module
`bounds`      log-likelihood, ELBO, both EUBOs and both gaps of every output
`objectives`  advantages, and each method as a linear combination of gradients of bounds
`training`    several runs as one vmapped scan
`figures`     the drift figure and the animation (matplotlib)

Importing this package imports nothing else.
"""

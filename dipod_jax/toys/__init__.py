"""Masked diffusion over every sequence of V^L, small enough that every likelihood, bound, gap and gradient is exact.

- `options`: names of methods, baselines, bounds and models; memory estimates (no JAX)
- `space`: sequences and contexts as index tables; conditionals of every sequence
- `bounds`: log-likelihood, ELBO and EUBO of every sequence (`dipod_jax.bounds.any_order`), or estimates from masks
- `methods`: the library's objectives and regulariser as weights of gradients of bounds
- `models`: a conditional table, a small transformer
- `two_tokens`: L = V = 2 in six logits, the toy of the papers
- `training`: updates with exact gradients (DiPOD's Algorithm 2), several runs as one vmapped scan, in float64
- `distillation`: self-distillation alone, and between updates (Algorithm 1)
- `figures`: the drift figure and the animation of the two-token toy
- `studies`: one module per question: its runs, its table and its figure

Importing this package imports nothing else.
"""

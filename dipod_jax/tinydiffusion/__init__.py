"""Masked diffusion over every sequence of V^L, still exact: the questions that two tokens leave open.

`space`       sequences, contexts and unmasking orders as index tables; what a length costs in memory (no JAX)
`model`       one conditional table per (context, position), or a small Flax transformer
`bounds`      exact log-likelihood, ELBO and EUBOs by dynamic programming over subsets of revealed positions
`estimators`  Monte-Carlo ELBO and EUBO: uniform counts, antithetic pairs, GDPO's quadrature nodes
`training`    Algorithm 2 and Algorithm 1, each one vmapped scan; `distillation` self-distillation alone
`studies`     one module a question: how its runs are made, its table and its figure

Importing this package imports nothing else.
"""

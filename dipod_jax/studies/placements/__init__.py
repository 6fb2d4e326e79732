"""Where to put (t, eps): noise of the ELBO, of the training loss and of their gradients, at N evaluations for everyone
(docs/bounds.md).
"""

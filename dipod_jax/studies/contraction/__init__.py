"""Does self-distillation keep the entropy? Rounds of it through several samplers, nothing else going on.

A flow policy that refits its own actions perfectly should stay what it is. Through a K-step Euler sampler it does not:
each round loses the fraction of the standard deviation that Euler cuts off (docs/bounds.md).
"""

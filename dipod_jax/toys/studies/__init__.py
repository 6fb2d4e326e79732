"""The questions the paper leaves open, one file each: `run(options)` measures and returns a `common.Study`.

- `compare`: the methods at one length and vocabulary
- `length`: how the gap grows with L
- `monotone`: the cost of a monotone drop of the EUBO
- `interleave`: Algorithm 1 against Algorithm 2 at equal gradient steps
- `beta`: how large beta must be relative to the most negative advantage
- `monte_carlo`: what estimated bounds change

Importing this package imports nothing else.
"""

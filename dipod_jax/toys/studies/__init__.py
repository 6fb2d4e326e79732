"""The questions the paper leaves open, one file each: `run(options)` measures and returns a `common.Study`.

`compare`      the methods at one length and vocabulary
`length`       how the gap grows with L
`monotone`     what a monotone drop of the EUBO costs
`interleave`   Algorithm 1 against Algorithm 2 at equal gradient steps
`beta`         where beta must lie relative to the most negative advantage
`monte_carlo`  what estimated bounds change

Importing this package imports nothing else.
"""

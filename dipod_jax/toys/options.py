"""The choices in the toys by name, and their memory estimates; imports no JAX, so that command lines stay quick."""

from typing import Literal, get_args

Proxy = Literal["policy-gradient", "fpo", "spg"]
"""What replaces log pi in the policy gradient: log pi itself, the ELBO, or ELBO and EUBO by the sign of A."""
Method = Literal["policy-gradient", "fpo", "spg", "policy-gradient+dipod", "fpo+dipod", "spg+dipod"]
"""A proxy, alone or with DiPOD's on-policy ELBO regulariser (arXiv 2606.13795, eq. 7)."""
Baseline = Literal["on-policy", "uniform", "none", "group-std"]
Eubo = Literal["spg", "renyi"]
Optimizer = Literal["sgd", "adam"]
Model = Literal["table", "transformer"]
Estimator = Literal["exact", "uniform", "antithetic", "gdpo", "gdpo-bernoulli"]
StudyName = Literal["compare", "length", "monotone", "interleave", "beta", "monte-carlo"]

PROXIES: tuple[Proxy, ...] = get_args(Proxy)
METHODS: tuple[Method, ...] = get_args(Method)
PAPER_METHODS: tuple[Method, ...] = ("fpo", "spg", "fpo+dipod", "spg+dipod", "policy-gradient")
"""The curves of DiPOD's figure 1, and the exact gradient beside them."""
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
EUBOS: tuple[Eubo, ...] = get_args(Eubo)
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
STUDIES: tuple[StudyName, ...] = get_args(StudyName)

# Arrays of the size of `token_log_probs` that are alive at once in a training step, forward and backward together.
_LIVE_COPIES = 8


def split_method(method: str) -> tuple[str, bool]:
    """A method's proxy, one of `PROXIES`, and whether DiPOD's regulariser is added.

    Raises:
      ValueError: for a name that is not one of `METHODS`.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown: choose from {', '.join(METHODS)}")
    proxy, plus, _ = method.partition("+")
    return proxy, bool(plus)


def record_interval(steps: int) -> int:
    """Updates between two records of a training of `steps` updates, of which there are then a hundred or all."""
    return max(steps // 100, 1)


def training_bytes(length: int, vocab_size: int, num_runs: int) -> int:
    """Approximate bytes of a vmapped training of `num_runs`: float64 arrays of X 2^L L numbers, and the tables."""
    per_run = (
        vocab_size**length * 2**length * length * _LIVE_COPIES + 4 * (vocab_size + 1) ** length * length * vocab_size
    )
    return 8 * (per_run * num_runs + vocab_size**length * 2**length)

"""The names of what can be chosen in the exact toys, in one place and without importing JAX."""

PROXIES = ("policy-gradient", "fpo", "spg")
"""What replaces log pi in the policy gradient: log pi itself, the ELBO, or ELBO and EUBO by the sign of A."""

METHODS = tuple(proxy + suffix for suffix in ("", "+dipod") for proxy in PROXIES)
"""A proxy, alone or with DiPOD's on-policy ELBO regulariser (Eq. 7)."""

PAPER_METHODS = ("fpo", "spg", "fpo+dipod", "spg+dipod", "policy-gradient")
"""The curves of DiPOD's figure 1, and the exact gradient beside them."""

BASELINES = ("on-policy", "uniform", "none", "group-std")
EUBOS = ("spg", "renyi")
OPTIMIZERS = ("sgd", "adam")


def split_method(method: str) -> tuple[str, bool]:
    """Split a method's name into its proxy and whether DiPOD's regulariser is added.

    Args:
      method: one of `METHODS`.

    Returns:
      `(proxy, has_dipod)`, `proxy` being one of `PROXIES`.

    Raises:
      ValueError: for any other name.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown: choose from {', '.join(METHODS)}")
    proxy, plus, _ = method.partition("+")
    return proxy, bool(plus)

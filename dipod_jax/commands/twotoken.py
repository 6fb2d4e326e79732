"""The exact two-token toy: every curve of DiPOD's figure 1, from both initialisations.

    dipod twotoken --out DIR

writes DIR/result.json, DIR/curves.npz, DIR/drift.png and DIR/drift.gif.
"""

import dataclasses
import json
import math
import sys
from pathlib import Path

from dipod_jax.checks import Checked, check_selection, require
from dipod_jax.cli import parse_with_folder, run_cli
from dipod_jax.tables import table
from dipod_jax.toys.options import METHODS, PAPER_METHODS, Baseline, Eubo, Method, Optimizer

_BYTES_PER_STEP = 8 * 22  # one method and init: 22 float64 numbers recorded at each step
_MEMORY_LIMIT_GIB = 2.0
_DRAWABLE = 1e150
COUNTED_BYTES = 2**100  # a float holds no more than 2^1024


@dataclasses.dataclass(frozen=True)
class Config:
    """Run the exact two-token toy (DiPOD, section 4.1) and record its gap, gradient cosine and reward at every step."""

    methods: tuple[Method, ...] = PAPER_METHODS
    """Methods, one or more of: policy-gradient fpo spg policy-gradient+dipod fpo+dipod spg+dipod."""
    init_logit: tuple[float, ...] = (0.5, 0.0)
    """Common initial value of the six logits, one run per value; finite. 0.5 follows the paper's text literally."""
    baseline: Baseline = "on-policy"
    """Advantage: on-policy (r - E r), uniform (r - mean of the four rewards), none (r), group-std."""
    learning_rate: float = 0.1
    """Step size of the optimiser, > 0."""
    steps: int = 1500
    """Number of exact-gradient updates, >= 0."""
    beta: float = 0.2
    """Weight of DiPOD's on-policy ELBO regulariser in the +dipod methods, >= 0 (reward units)."""
    eubo: Eubo = "spg"
    """Upper bound that SPG lowers where A <= 0: spg (per token) or renyi (over orders)."""
    eubo_order: float = 1.5
    """Order of that bound, >= 1. The spg one is an upper bound from 2 on."""
    optimizer: Optimizer = "sgd"
    """sgd (plain) or adam (b1 0.9, b2 0.999, eps 1e-8)."""
    animation: bool = True
    """Draw drift.gif as well (a few seconds)."""
    out: Path | None = None
    """Folder for the results, new or empty. Default: runs/twotoken/<time>."""

    def __post_init__(self) -> None:
        check = Checked(self)
        check.choices()
        check_selection("methods", self.methods, METHODS)
        check_selection("init-logit", self.init_logit)
        for logit in self.init_logit:
            require(math.isfinite(logit), "init-logit", logit, "a finite number")
        check.require(0 < self.learning_rate < math.inf, "learning_rate", "a finite number, more than 0")
        check.number("beta")
        check.number("eubo_order", low=1.0)
        check.require(self.steps >= 0, "steps", "an integer, at least 0")
        num_bytes = len(self.methods) * len(self.init_logit) * (self.steps + 1) * _BYTES_PER_STEP
        gib = min(num_bytes, COUNTED_BYTES) / 2**30
        fits = f"fewer: its curves would take {gib:.3g} GiB and at most {_MEMORY_LIMIT_GIB:g} are allowed"
        check.require(gib <= _MEMORY_LIMIT_GIB, "steps", fits)


def summarise(curves, config: Config) -> dict:
    """The content of result.json: {"config": ..., "runs": {method: {init logit: {"final", "peak_mean_gap"}}}}."""
    from dipod_jax.toys.two_tokens import OUTPUTS

    def run(m: int, i: int) -> dict:
        last = {name: values[m, i, -1] for name, values in curves._asdict().items()}
        final: dict = {name: float(last[name]) for name in ("mean_gap", "max_gap")}
        final["gap"] = dict(zip(OUTPUTS, last["gap"].tolist(), strict=True))
        final |= {name: float(last[name]) for name in ("expected_reward", "gradient_cosine")}
        final["logits"] = last["logits"].tolist()
        final["probabilities"] = dict(zip(OUTPUTS, last["probabilities"].tolist(), strict=True))
        return {"final": final, "peak_mean_gap": float(curves.mean_gap[m, i].max())}

    runs = {
        method: {str(logit): run(m, i) for i, logit in enumerate(config.init_logit)}
        for m, method in enumerate(config.methods)
    }
    settings = dataclasses.asdict(config)
    del settings["out"]  # where a result lies is not part of the result
    return {"config": settings, "runs": runs}


def stop_if_diverged(curves, config: Config) -> None:
    """Exit with status 1 and one line that names the first run that is no longer finite, instead of writing a result
    with NaN."""
    import numpy as np

    # False for nan as well; beyond _DRAWABLE no axis holds them.
    finite = (np.abs(curves.logits).max(axis=-1) < _DRAWABLE) & (curves.max_gap < _DRAWABLE)  # (M, I, S+1)
    if not finite.all():
        m, i, step = np.argwhere(~finite)[0]
        run = f"{config.methods[m]} from {config.init_logit[i]:g}"
        print(f"twotoken: {run} is no longer finite at step {step}: lower --learning-rate", file=sys.stderr)
        sys.exit(1)


def final_values(result: dict) -> list[dict[str, str]]:
    """Rows of a table: the final values of every run."""
    return [
        {
            "method": method,
            "init": init,
            "mean gap": f"{run['final']['mean_gap']:.4f}",
            "peak": f"{run['peak_mean_gap']:.4f}",
            "max gap": f"{run['final']['max_gap']:.4f}",
            "reward": f"{run['final']['expected_reward']:.4f}",
            "cosine": f"{run['final']['gradient_cosine']:.3f}",
        }
        for method, inits in result["runs"].items()
        for init, run in inits.items()
    ]


def main(argv: list[str] | None = None) -> None:
    """Parse a command line and train."""
    run_cli(lambda arguments: parse_with_folder(Config, "twotoken", arguments), run, argv, lasts=True)


def run(config: Config) -> None:
    """Train every method from every start; write the result, its curves and its pictures."""
    out = config.out
    assert out is not None
    from dipod_jax.training.setup import prepare_devices

    prepare_devices()
    out.mkdir(parents=True, exist_ok=True)

    import numpy as np

    from dipod_jax.toys import figures, two_tokens

    curves = two_tokens.train(
        config.methods,
        config.init_logit,
        steps=config.steps,
        learning_rate=config.learning_rate,
        beta=config.beta,
        baseline=config.baseline,
        eubo=config.eubo,
        eubo_order=config.eubo_order,
        optimizer=config.optimizer,
    )
    stop_if_diverged(curves, config)
    result = summarise(curves, config)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    np.savez_compressed(
        out / "curves.npz",
        methods=np.array(config.methods),
        init_logits=np.array(config.init_logit),
        **curves._asdict(),
    )
    figures.draw_drift(curves, config.methods, config.init_logit, out / "drift.png")
    if config.animation:
        figures.animate_drift(curves, config.methods, config.init_logit, out / "drift.gif")
    print(table(final_values(result)))
    print(f"results: {out}/result.json, curves.npz, drift.png" + (", drift.gif" if config.animation else ""))


if __name__ == "__main__":
    main()

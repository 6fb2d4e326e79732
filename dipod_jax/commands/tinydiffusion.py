"""Exact masked diffusion over V^L: what the two-token toy leaves open.

    dipod tinydiffusion --length 4 --vocab 2 --study compare length monotone interleave beta monte-carlo

writes DIR/<study>.png, DIR/<study>.md (the table) and DIR/<study>.npz for every study, and DIR/config.json.
"""

import dataclasses
import importlib
import json
import time
from pathlib import Path

from dipod_jax.checks import Checked, check_selection
from dipod_jax.cli import parse_with_folder, run_cli
from dipod_jax.tables import table
from dipod_jax.toys.options import (
    STUDIES,
    Baseline,
    Estimator,
    Eubo,
    Model,
    StudyName,
    record_interval,
    training_bytes,
)

COUNTED_BYTES = 2**100  # a float holds no more than 2^1024
# The most runs that one program of each study trains at once, for one seed.
_RUNS_PER_SEED = {"compare": 5, "length": 5, "monotone": 4, "interleave": 8, "beta": 11, "monte-carlo": 4}


@dataclasses.dataclass(frozen=True)
class Config:
    """Study masked diffusion over all V^L sequences with exact likelihoods; each study writes a table and a figure."""

    length: int = 4
    """Number of tokens L, 2 to 6 on a laptop; up to 12 if --memory-limit allows. The study `length` runs every length
    from 2 to L."""
    vocab: int = 2
    """Number of tokens V in the vocabulary, 2 to 4 on a laptop; more if --memory-limit allows."""
    study: tuple[StudyName, ...] = ("compare",)
    """One or more of: compare length monotone interleave beta monte-carlo."""
    model: Model = "table"
    """table (one conditional per context and position) or transformer (two layers, width 16)."""
    steps: int = 3000
    """Gradient steps of each run, >= 4."""
    learning_rate: float = 2.0
    """Step size of plain gradient ascent, > 0. (The step 0.1 of `dipod twotoken`, on log-odds, is 0.05 here.)"""
    beta: float = 0.2
    """Weight of DiPOD's regulariser in studies that do not sweep it, >= 0; rewards lie in [0.7, 1]."""
    seeds: int = 5
    """Number of random reward tables, >= 1; seed s draws table s."""
    baseline: Baseline = "on-policy"
    """Advantage: on-policy, uniform, none or group-std (the study beta compares two of its own)."""
    eubo: Eubo = "spg"
    """Upper bound that SPG lowers for sequences with advantage <= 0: spg or renyi (the study monotone uses renyi of
    order 2)."""
    eubo_order: float = 1.5
    """Order of that bound, >= 1."""
    estimator: Estimator = "exact"
    """How the method computes its bounds: exact, or from random masks: uniform, antithetic, gdpo, gdpo-bernoulli."""
    num_draws: int = 1
    """Masks per sequence and step of a Monte-Carlo estimator, >= 1; even for antithetic."""
    memory_limit: float = 4.0
    """Estimated memory that training may use, in GiB, > 0; larger problems are refused before anything is compiled."""
    out: Path | None = None
    """Folder for the results, new or empty. Default: runs/tinydiffusion/<time>."""

    def __post_init__(self) -> None:
        check = Checked(self)
        check.choices()
        check_selection("study", self.study, STUDIES)
        check.number("length", low=2, high=12)
        check.number("vocab", low=2)
        check.number("steps", low=4)
        every = record_interval(self.steps)
        check.require(self.steps % every == 0, "steps", f"a multiple of {every}, the steps between two records")
        check.positive("learning_rate", "memory_limit")
        check.number("beta")
        check.number("seeds", "num_draws", "eubo_order", low=1)
        pairs = self.estimator != "antithetic" or self.num_draws % 2 == 0
        check.require(pairs, "num_draws", "an even number with --estimator antithetic")
        exact_only = self.estimator == "exact" or not {"monotone", "interleave"} & set(self.study)
        check.require(exact_only, "estimator", "exact for the studies monotone and interleave")
        estimated = self.estimator != "exact" or "monte-carlo" in self.study
        of_spg = not estimated or self.eubo == "spg"
        check.require(
            of_spg, "eubo", "spg where bounds are estimated: with an --estimator, and in the study monte-carlo"
        )
        num_runs = self.seeds * max(_RUNS_PER_SEED[study] for study in self.study)
        gib = min(training_bytes(self.length, self.vocab, num_runs), COUNTED_BYTES) / 2**30
        fits = f"smaller: with --vocab {self.vocab} and {num_runs} runs at once it would take about {gib:.3g} GiB, "
        fits += f"and --memory-limit is {self.memory_limit:g}"
        check.require(gib <= self.memory_limit, "length", fits)


def main(argv: list[str] | None = None) -> None:
    """Parse a command line and run the studies."""
    run_cli(lambda arguments: parse_with_folder(Config, "tinydiffusion", arguments), run, argv, lasts=True)


def run(config: Config) -> None:
    """Run each study; write its table, picture and arrays."""
    out = config.out
    assert out is not None
    from dipod_jax.training.setup import prepare_devices

    prepare_devices()
    out.mkdir(parents=True, exist_ok=True)

    import numpy as np

    from dipod_jax.toys.studies.common import Options

    fields = dataclasses.asdict(config)
    options = Options(vocab_size=fields["vocab"], **{k: v for k, v in fields.items() if k in Options._fields})
    del fields["out"]  # where a result lies is not part of the result
    (out / "config.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")
    for name in config.study:
        module = importlib.import_module(f"dipod_jax.toys.studies.{name.replace('-', '_')}")
        start = time.perf_counter()
        study = module.run(options)
        text = table(study.rows)
        (out / f"{name}.md").write_text(text + "\n", encoding="utf-8")
        np.savez_compressed(out / f"{name}.npz", **study.arrays)
        study.figure.savefig(out / f"{name}.png", dpi=90)
        print(f"{name} ({time.perf_counter() - start:.0f} s)\n{text}\n", flush=True)
    print(f"results: {out}/config.json and, for each study, .md (table), .png and .npz")


if __name__ == "__main__":
    main()

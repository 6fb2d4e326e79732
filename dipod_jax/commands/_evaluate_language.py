"""Accuracy of a saved language policy, and its answers step by step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dipod_jax.checks import Checked
from dipod_jax.cli import command_name, parse_options


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a saved language policy: accuracy greedy, sampled and in random order; some answers step by step."""

    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """a run folder; nothing else is needed"""
    problems: int = 512
    """held-out problems, >= 1; at most all of them"""
    seed: int | None = None
    """which of the run's seeds; none: the first"""
    evaluation_seed: int = 0
    """seed of the sampled answers, >= 0"""
    boards: int = 2
    """problems whose greedy answer is printed step by step, >= 0"""
    decoder: Literal["acting", "default"] = "acting"
    """what decodes greedy and sampled answers: the decoder that the run acts by, or the default one, which fills two
    blanks a step in order of confidence; runs that act by different decoders are compared by one"""
    test_file: Path | None = None
    """problems of a published test set, in its original format, instead of those held out; the accuracy on those that
    are unlike every training problem stands beside"""

    def __post_init__(self):
        check = Checked(self)
        check.choices()
        check.number("problems", low=1)
        check.number("seed", "evaluation_seed", "boards", high=2**31 - 1)


def parse(arguments: list[str]) -> EvaluateConfig:
    """The options, with the run folder, the seed and the test file checked."""
    from dipod_jax.language.replay import check_run
    from dipod_jax.runs import check_writable

    options = parse_options(EvaluateConfig, arguments, prog=command_name("evaluate"))
    config = check_run(options.run_dir, options.seed)
    if options.test_file is not None:
        config.problems.read(options.test_file)
    check_writable(options.run_dir, "RUN_DIR")
    return options


def evaluate(options: EvaluateConfig) -> None:
    """Write the accuracy to RUN_DIR/evaluation.json, and print boards and accuracy."""
    from dipod_jax.language.decoding import DecoderOptions
    from dipod_jax.language.evaluation import means
    from dipod_jax.language.replay import choose_problems, load_run
    from dipod_jax.language.task import unseen
    from dipod_jax.runs import RunFolder
    from dipod_jax.training.setup import prepare_devices

    prepare_devices()
    run = load_run(options.run_dir, options.seed)
    if options.decoder == "default":
        run = run.acting_by(DecoderOptions())
    problems = choose_problems(run.config.problems, options.test_file, options.problems)
    accuracy = run.evaluate(problems, options.evaluation_seed)
    fresh = None if options.test_file is None else unseen(problems, run.config.problems.problems("train"))
    about = {"num_problems": len(problems.prompt), "decoder": options.decoder}
    result = means(accuracy, fresh) | about | {"seed": run.seed, "evaluation_seed": options.evaluation_seed}
    if fresh is not None:
        result |= {"test_file": str(options.test_file), "num_unseen": int(fresh.sum())}
    RunFolder.open(options.run_dir).write_json("evaluation.json", result)
    for prompt in problems.prompt[: options.boards]:
        print(f"{run.show(prompt)}\n")
    print(json.dumps(result, indent=1))

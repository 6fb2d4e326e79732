"""A study's results as `results.md`: one table beside the published numbers, and how often those are reached."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dipod_jax.report.charts import names_of
from dipod_jax.report.results_table import interval_text
from dipod_jax.runs._disk import write_text
from dipod_jax.studies.collected import LANGUAGE_NOTE, Arm, Study
from dipod_jax.studies.published import BEST, BRAX_PPO, POLICY_GRADIENT, PPO, Published
from dipod_jax.studies.summary import ALL_TASKS, Row, finals
from dipod_jax.tables import counted, duration, mean_of_numbers, number_or_dash, short_number, shown_return, table

KEPT = 0.9  # of its best evaluation, under which a seed counts as fallen
NOTE = """- return: mean over seeds of the last evaluation, its 95 % bootstrap interval (too narrow for few seeds), and
  in brackets each seed
- zero noise: the same of the policy without its base noise
- seconds: of the whole run, all seeds together
- last / best: the final return over the highest of a seed's evaluations, the least of the seeds
- gap: log-likelihood less ELBO, nats an action, median over the last quarter of training, mean over seeds
- published: SLM-Lab's PPO, 100M env steps, four seeds; Brax's with Playground's settings, 88M to 177M, five; policy
  gradient: the best that learns on-policy; anyone: the best; mostly of far more env steps than here
  (`dipod_jax.studies.published` says whose each is)
"""


def write_markdown(study: Study, rows: Sequence[Row], path: Path, title: str) -> None:
    """A Markdown file, replaced atomically: a line for every task and arm, then a sentence for every arm."""
    of_tasks = [row for row in rows if row.task != ALL_TASKS]
    names = names_of(study.arms)
    lines = table([_line(row, study, names[row.arm]) for row in of_tasks])
    sentences = "".join(f"- {names[arm]}: {_reached(study, arm)}\n" for arm in study.arms)
    notes = NOTE + f"- {LANGUAGE_NOTE}\n" * study.of_language
    write_text(path, f"# {title}\n\n{lines}\n\n{notes}\n{sentences}")


def _line(row: Row, study: Study, label: str) -> dict[str, str]:
    seeds = study.of(row.task, row.arm)
    returns = " ".join("-" if seed.final_return is None else shown_return(seed.final_return) for seed in seeds)
    kept = [seed.last_over_best for seed in seeds if seed.last_over_best is not None]
    return {
        "task": row.task,
        "run": label,
        "return": "-" if row.mean is None else f"{interval_text(row.mean, '')} [{returns}]",
        "zero noise": shown_return(mean_of_numbers(seed.zero_noise_return for seed in seeds)),
        "env steps": short_number(max(seed.env_steps for seed in seeds)),
        "seconds": duration(sum({seed.folder.path: seed.seconds for seed in seeds}.values())),
        "last / best": number_or_dash(min(kept, default=None), ".2f"),
        "gap": number_or_dash(row.gap, ".3g"),
        "SLM-Lab's PPO": _mean(PPO, row.task),
        "Brax's PPO": _mean(BRAX_PPO, row.task),
        "policy gradient": _mean(POLICY_GRADIENT, row.task),
        "anyone": _mean(BEST, row.task),
    }


def _mean(numbers: Mapping[str, Published], task: str) -> str:
    return f"{numbers[task].mean:g}" if task in numbers else "-"


def _reached(study: Study, arm: Arm) -> str:
    """How many tasks of an arm are at or above the published numbers, and which seeds have fallen."""
    means = {task: float(returns.mean()) for task in study.tasks if (returns := finals(study, task, arm)).size}
    compared = [task for task in means if task in POLICY_GRADIENT]
    if not compared:
        return "no finished run of a task with published returns."
    at_least = lambda numbers, share=1.0: sum(means[task] >= share * numbers[task].mean for task in compared)
    seeds = [seed for task in compared for seed in study.of(task, arm)]
    fallen = [s for s in seeds if s.last_over_best is not None and s.last_over_best < KEPT]
    names = ", ".join(f"{seed.task} seed {seed.seed}" for seed in fallen)
    return (
        f"of {counted(len(compared), 'task')} {at_least(PPO)} at or above SLM-Lab's PPO, {at_least(BRAX_PPO)} at or "
        f"above Brax's, {at_least(POLICY_GRADIENT)} at or above the best policy gradient, "
        f"{at_least(POLICY_GRADIENT, 0.5)} at half of it or more; "
        f"{names or 'no seed'} ended under {KEPT:g} of its best evaluation."
    )

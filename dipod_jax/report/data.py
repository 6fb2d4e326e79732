"""A study's numbers as files: `results.csv`, one row per seed, and `curves.parquet`, one row per point."""

from pathlib import Path

import numpy as np

from dipod_jax.runs._disk import replacing, write_text
from dipod_jax.studies.collected import SeedRun, Study
from dipod_jax.tables import as_csv


def write_results(study: Study, path: Path) -> None:
    """A CSV with a row for every seed that has an evaluation, replaced atomically.

    `final_return` and `zero_noise_return` are empty until the run has ended, or where it diverged; `auc` is the mean
    return along training so far; `gap` (nats) and `cosine` are medians over the last quarter of what was measured,
    empty where nothing was; `seconds` is the wall-clock time of the run, which its seeds share.
    """
    write_text(path, as_csv([_row(seed) for seed in study.seeds]))


def _row(seed: SeedRun) -> dict[str, str | int | float | None]:
    return {
        "task": seed.task,
        "objective": seed.arm.objective,
        "beta": seed.arm.beta,
        "options": seed.arm.options,
        "seed": seed.seed,
        "env_steps": seed.env_steps,
        "final_return": seed.final_return,
        "zero_noise_return": seed.zero_noise_return,
        "auc": seed.auc,
        "gap": seed.late("gap"),
        "cosine": seed.late("cosine"),
        "seconds": seed.seconds,
        "finished": seed.finished,
    }


def write_curves(study: Study, path: Path) -> None:
    """A Parquet file (zstd) with a row for every point of every curve, replaced atomically.

    Columns: task, objective, beta, options, seed, quantity (`studies.collected.QUANTITIES`), env_steps, value.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = [
        pa.table(
            {
                "task": _repeated(seed.task, len(curve.x)),
                "objective": _repeated(seed.arm.objective, len(curve.x)),
                "beta": _repeated(seed.arm.beta, len(curve.x)),
                "options": _repeated(seed.arm.options, len(curve.x)),
                "seed": np.full(len(curve.x), seed.seed, np.int64),
                "quantity": _repeated(quantity, len(curve.x)),
                "env_steps": curve.x.astype(np.int64),
                "value": curve.y,
            }
        )
        for seed in study.seeds
        for quantity, curve in seed.curves.items()
    ]
    with replacing(path) as temporary:
        pq.write_table(pa.concat_tables(parts), temporary, compression="zstd")


def _repeated(text: str, times: int) -> list[str]:
    return [text] * times

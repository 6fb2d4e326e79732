"""The page of a study, with its figure and its numbers in files beside it: written at any time, also while it runs."""

import csv
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dipod_jax.report._page import MAX_EMBEDDED_BYTES, REPORT, embedded, rendered
from dipod_jax.report.charts import Bands, Section, bands, names_of, sections
from dipod_jax.report.data import write_curves, write_results
from dipod_jax.report.markdown import write_markdown
from dipod_jax.report.origins import origins
from dipod_jax.report.results_table import results_table, sources
from dipod_jax.runs import RunFolder, RunFolderError
from dipod_jax.runs._disk import plain, read_bytes, write_text
from dipod_jax.studies.collected import LANGUAGE_NOTE, SeedRun, Study, collect, collect_study
from dipod_jax.studies.summary import Row, cautions, rows, verdicts
from dipod_jax.studies.sweep.plan import MAX_PLAN_BYTES, TABLE, planned_by, read_plan
from dipod_jax.studies.sweep.states import failures, is_done
from dipod_jax.tables import duration, short_number, shown_return
from dipod_jax.viz._style import COLOURS
from dipod_jax.viz.figure2 import plot_figure2

FIGURE, RESULTS, RESULTS_TABLE, CURVES = "figure2", "results.csv", "results.md", "curves.parquet"
# The figures' colours, the darker of them lightened, for a dark page.
COLOURS_ON_DARK = ("#4DA3E0", "#F0803C", "#2CC295", "#E39AC4", "#F2B53A", "#8CCBF2", "#AAAAAA")


def write_study_report(folder: Path) -> Path:
    """Write the report of a study: `report.html`, `figure2.png`, `figure2.pdf`, `results.csv`, `results.md`,
    `curves.parquet`; return the page.

    It reads the run folders in `folder/units`, whatever they hold so far, and where there are such files the number of
    units from `plan.csv` and the commands from `study.json`. The page needs nothing beside it and asks nothing of the
    network: charts, their library (uPlot) and films are in it.

    Args:
        folder: holds `units/`; it takes the files.

    Raises:
        RunFolderError: no unit has an evaluation yet, or two hold the same seed; nothing is written.
    """
    study = collect_study(folder)
    study = study._replace(left_out=study.left_out | _failed(folder))
    return _write(study, folder, planned=_planned(folder), commands=planned_by(folder))


def write_runs_report(run_dirs: Sequence[Path], out: Path) -> Path:
    """The same report for any list of run folders, written into the folder `out`, which is created.

    Raises:
        RunFolderError: one is no run folder or cannot be read, none has an evaluation, or two hold the same seed.
    """
    return _write(collect([RunFolder.open(path) for path in run_dirs]), out, planned=None, commands=[])


def _write(study: Study, out: Path, *, planned: int | None, commands: Sequence[str]) -> Path:
    returns = bands(study, "return")
    table = rows(study)
    content = _content(study, table, returns, planned, commands)
    out.mkdir(parents=True, exist_ok=True)
    names = names_of(study.arms)
    panels = {task: {names[arm]: band for arm, band in arms.items()} for task, arms in returns.items()}
    for suffix in ("png", "pdf"):
        path = out / f"{FIGURE}.{suffix}"
        plot_figure2(panels, path, labels=list(names.values()), title=_title(study))
    write_results(study, out / RESULTS)
    write_markdown(study, table, out / RESULTS_TABLE, _title(study))
    write_curves(study, out / CURVES)
    write_text(out / REPORT, rendered("study.html", content))
    return out / REPORT


def _planned(folder: Path) -> int | None:
    """Units in `plan.csv`; None where there is none that can be read."""
    try:
        text = read_bytes(folder / TABLE, MAX_PLAN_BYTES).decode()
        return sum(1 for _ in csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error, RunFolderError):
        return None


def _failed(folder: Path) -> dict[str, str]:
    """Each unit of a sweep that is not done and of which a try has failed -> what its last one said."""
    try:
        units = read_plan(folder)
    except RunFolderError:
        return {}
    errors = {unit.name: failures(unit) for unit in units if not is_done(unit)}
    return {name: f"a try failed: {found[-1].get('error')}" for name, found in errors.items() if found}


def _content(
    study: Study, table: Sequence[Row], returns: Bands, planned: int | None, commands: Sequence[str]
) -> dict[str, Any]:
    """The variables of the template."""
    shown = sections(study, returns)
    if not commands:  # those of a sweep's workers would say less
        commands = [str(folder.provenance.get("command", "")) for folder in study.folders]
    return {
        "title": _title(study),
        "subtitle": _subtitle(study, planned),
        "numbers": _numbers(study),
        "verdicts": verdicts(table) or _no_verdict(study),
        "cautions": [*cautions(table), *[LANGUAGE_NOTE] * study.of_language],
        "sections": shown,
        "data": _data(study, shown),
        "groups": results_table(table, study),
        "sources": sources(study),
        "films": _films(study),
        "commands": [each for each in dict.fromkeys(commands) if each],
        "versions": origins(study.folders),
        "left_out": study.left_out,
        "script": _static("study.js"),
        "library": _static("uplot/uPlot.iife.min.js"),
        "library_style": _static("uplot/uPlot.min.css"),
        "library_licence": _static("uplot/LICENSE"),
        "files": [f"{FIGURE}.png", f"{FIGURE}.pdf", RESULTS, RESULTS_TABLE, CURVES],
    }


def _static(name: str) -> Any:
    """A file of the package, to stand in the page as it is."""
    from markupsafe import Markup

    return Markup((files("dipod_jax.report") / "static" / name).read_text(encoding="utf-8"))


def _title(study: Study) -> str:
    tasks = study.tasks
    named = ", ".join(tasks) if len(tasks) <= 4 else f"{len(tasks)} tasks"
    return f"{named} · {', '.join(dict.fromkeys(arm.objective for arm in study.arms))}"


def _subtitle(study: Study, planned: int | None) -> str:
    ended = sum(folder.read_result() is not None for folder in study.folders)
    of = len(study.folders) if planned is None else max(planned, len(study.folders))
    begun = min((str(folder.provenance.get("created", "")) for folder in study.folders), default="")
    state = f"all {of} runs have ended" if ended == of else f"{ended} of {of} runs have ended"
    return f"begun {begun.replace('T', ' ').replace('+00:00', ' UTC')} · {state}"


def _numbers(study: Study) -> list[tuple[str, str]]:
    seconds = {seed.folder.path: seed.seconds for seed in study.seeds}
    return [
        (f"{sum(seed.finished for seed in study.seeds)} of {len(study.seeds)}", "seeds finished"),
        (str(len({arm.beta for arm in study.arms})), "betas"),
        (short_number(sum(seed.env_steps for seed in study.seeds)), "env steps"),
        (duration(sum(seconds.values())), "wall-clock time of all runs"),
    ]


def _no_verdict(study: Study) -> list[str]:
    if all(arm != arm.control for arm in study.arms):
        return ["No run has beta 0, so nothing is said here of whether beta helps."]
    if all(arm == arm.control for arm in study.arms):
        return ["Every run has beta 0, so nothing is said here of whether beta helps."]
    return ["Too few runs have ended to say whether beta helps: it takes one with beta 0 and one without on a task."]


def _data(study: Study, shown: Sequence[Section]) -> Any:
    """What the script draws. Indices of lines into the legend of their section give the colours."""
    legends = {"arms": list(names_of(study.arms).values())}
    labels = [line["label"] for s in shown if s.group == "tasks" for chart in s.charts for line in chart["lines"]]
    legends["tasks"] = list(dict.fromkeys(labels))
    charts = [chart | {"group": section.group} for section in shown for chart in section.charts]
    return plain({"legends": legends, "charts": charts, "light": COLOURS, "dark": COLOURS_ON_DARK})


def _films(study: Study) -> list[dict[str, Any]]:
    """The best and the worst of each task's filmed seeds, of which a run has two. What is too much is named."""
    left, films = MAX_EMBEDDED_BYTES, []
    for task in study.tasks:
        finished = [seed for seed in study.seeds if seed.task == task and seed.final_return is not None]
        finished.sort(key=lambda seed: seed.final_return or 0.0)
        filmed = [(seed, path) for seed in finished if (path := seed.folder.films().get(seed.seed))]
        for which, end in (("best", -1), ("worst", 0))[: len(filmed)]:
            seed, path = filmed[end]
            size = path.stat().st_size
            source = embedded(path, "video/mp4", MAX_EMBEDDED_BYTES) if size <= left else None
            left -= size if source else 0
            caption = _caption(which if seed is finished[end] else f"{which} of the filmed", seed)
            films.append({"caption": caption, "source": source, "path": str(path)})
    return films


def _caption(which: str, seed: SeedRun) -> str:
    return f"{seed.task}, {which}: {seed.arm.label}, seed {seed.seed}, final return {shown_return(seed.final_return)}"

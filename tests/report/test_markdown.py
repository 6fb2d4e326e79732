"""`results.md`: a study's table beside the published numbers."""

import json
import tarfile
from pathlib import Path

import pytest
from fake_study import write_run, write_study

from dipod_jax.envs.tasks import TASKS
from dipod_jax.report import write_runs_report, write_study_report
from dipod_jax.report.data import write_results
from dipod_jax.report.markdown import write_markdown
from dipod_jax.studies.collected import collect_study
from dipod_jax.studies.published import BEST, BRAX_PPO, POLICY_GRADIENT, PPO
from dipod_jax.studies.summary import rows


def written(runs, out):
    return (write_runs_report(runs, out).parent / "results.md").read_text()


def line_of(text: str, *starts: str) -> list[str]:
    """The cells of the line that begins so."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    (found,) = [cells for cells in lines if tuple(cells[: len(starts)]) == starts]
    return found


def test_a_line_is_an_arm_on_a_task_with_each_seed_beside_the_published_numbers(tmp_path):
    text = write_study_report(write_study(tmp_path)).with_name("results.md").read_text()
    mean, zero_noise, steps, seconds, kept, gap, *published = line_of(text, "BallInCup", "beta 0.02")[2:]
    assert mean.startswith("883 (") and mean.endswith("[800 900 950]")
    assert (zero_noise, steps, seconds, kept, gap) == ("883", "200k", "4m00s", "1.00", "0.5")
    assert published == ["942", "565", "975", "975"]
    assert line_of(text, "FingerSpin", "beta 0")[-4:] == ["713", "570", "904", "936"]
    assert not any(line.startswith("| all tasks") for line in text.splitlines())


def test_a_run_that_goes_on_has_dashes_and_a_task_of_ones_own_no_published_numbers(tmp_path):
    own = write_run(tmp_path / "a", task="my_task:make", finals=(5.0, 7.0), finished=False)
    text = written([own], tmp_path / "out")
    assert line_of(text, "my_task:make")[2:] == ["-", "-", "200k", "3m21s", "-", "0.5", "-", "-", "-", "-"]
    assert "- beta 0: no finished run of a task with published returns." in text


def test_a_sentence_counts_what_is_reached_and_names_the_seeds_that_fell(tmp_path):
    """BallInCup and HopperHop above both PPOs, HopperHop above half of REPPO's 347, CheetahRun under half of 933."""
    runs = [
        write_run(tmp_path / "a", finals=(950.0, 960.0)),
        write_run(tmp_path / "b", task="HopperHop", finals=(200.0, 220.0)),
        write_run(tmp_path / "c", task="CheetahRun", finals=(300.0, 310.0)),
    ]
    result = json.loads((runs[2] / "result.json").read_text())
    result["final_return"]["per_seed"] = [300.0, 270.0]  # of a best of 310
    (runs[2] / "result.json").write_text(json.dumps(result))
    text = written(runs, tmp_path / "out")
    assert line_of(text, "CheetahRun")[6] == "0.87"
    assert (
        "- beta 0: of 3 tasks 2 at or above SLM-Lab's PPO, 2 at or above Brax's, 0 at or above the best policy "
        "gradient, 2 at half of it or more; CheetahRun seed 1 ended under 0.9 of its best evaluation." in text
    )


@pytest.mark.parametrize("finals", [(None, 900.0), (0.0, 0.0)], ids=["diverged", "nothing earned"])
def test_a_seed_without_a_return_is_no_seed_that_fell(tmp_path, finals):
    text = written([write_run(tmp_path / "a", finals=finals)], tmp_path / "out")
    assert "no seed ended under 0.9 of its best" in text


def test_a_seed_that_lost_everything_is_one_that_fell(tmp_path):
    run = write_run(tmp_path / "a", finals=(900.0,))
    result = json.loads((run / "result.json").read_text())
    result["final_return"]["per_seed"] = [0.0]
    (run / "result.json").write_text(json.dumps(result))
    assert "BallInCup seed 0 ended under 0.9 of its best" in written([run], tmp_path / "out")


def test_every_task_of_the_suite_has_all_four_published_numbers():
    assert set(BEST) == set(POLICY_GRADIENT) == set(PPO) == set(BRAX_PPO) == set(TASKS)
    for task in BEST:
        assert max(PPO[task].mean, BRAX_PPO[task].mean) <= POLICY_GRADIENT[task].mean <= BEST[task].mean


@pytest.mark.parametrize(("study", "table"), [("figure2", "figure2/results.md"), ("tasks", "tasks.md")])
def test_the_published_numbers_of_a_study_are_those_of_its_published_runs(tmp_path, study, table):
    published = Path(__file__).parents[2] / "docs" / "results"
    with tarfile.open(published / study / "runs.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    runs, title = collect_study(tmp_path / study), (published / table).read_text().split("\n")[0][2:]
    write_results(runs, tmp_path / "results.csv")
    write_markdown(runs, rows(runs), tmp_path / "results.md", title)
    assert (tmp_path / "results.csv").read_text() == (published / study / "results.csv").read_text()
    assert (tmp_path / "results.md").read_text() == (published / table).read_text()

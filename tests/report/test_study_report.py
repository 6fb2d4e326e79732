"""The page of a study: its numbers are those of the run folders, and a reader's browser shows it as it is meant."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from browser import CHROMIUM, Browser
from fake_study import STEPS, write_run, write_study
from PIL import Image
from refusals import errors_of

from dipod_jax import presets
from dipod_jax.commands import report
from dipod_jax.report import charts, write_runs_report, write_study_report
from dipod_jax.report import study as page
from dipod_jax.runs import RunFolderError
from dipod_jax.studies.collected import collect_study
from dipod_jax.studies.published import BEST, FPO
from dipod_jax.studies.statistics import bootstrap
from dipod_jax.studies.summary import rows, verdicts
from dipod_jax.studies.sweep.plan import extend_plan, make_unit
from dipod_jax.studies.sweep.states import record_failure

HOSTILE = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "'\"&{{ 7 * 7 }}")
FILES = {"report.html", "figure2.png", "figure2.pdf", "results.csv", "results.md", "curves.parquet"}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A study with its report written."""
    folder = write_study(tmp_path_factory.mktemp("study") / "figure2")
    write_study_report(folder)
    return folder


@pytest.fixture(scope="module")
def content(study) -> str:
    return (study / "report.html").read_text(encoding="utf-8")


def data_of(content: str) -> dict:
    """What the page's script draws."""
    found = re.search(r'<script type="application/json" id="study">(.*?)</script>', content, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_the_page_stands_beside_its_figure_and_its_numbers_and_no_run_is_touched(study):
    assert {path.name for path in study.iterdir()} == FILES | {"units", "plan.csv"}
    unit = {path.name for path in (study / "units" / "a").iterdir()}
    assert unit == {"config.json", "metrics.jsonl", "result.json"}
    assert Image.open(study / "figure2.png").size[0] > 1000
    assert (study / "figure2.pdf").read_bytes().startswith(b"%PDF")


def test_a_row_of_results_is_a_seed_with_the_numbers_of_its_run(study):
    with (study / "results.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 13
    row = next(r for r in found if (r["task"], r["beta"], r["seed"]) == ("BallInCup", "0.02", "1"))
    assert row | {"auc": None} == {
        **{"task": "BallInCup", "objective": "fpo", "beta": "0.02", "options": "", "seed": "1", "env_steps": "200000"},
        **{"final_return": "900.0", "zero_noise_return": "900.0", "auc": None, "gap": "0.5", "cosine": "0.6"},
        **{"seconds": "240.0", "finished": "True"},
    }
    assert float(row["auc"]) == pytest.approx(450.0)  # a line from 0 to 900
    running = next(r for r in found if r["beta"] == "auto")
    assert (running["final_return"], running["finished"], running["seconds"]) == ("", "False", "201.0")


def test_the_curves_hold_every_point_of_every_seed(study):
    table = pq.read_table(study / "curves.parquet")
    assert table.num_rows == 13 * len(STEPS) * 4
    assert set(table["quantity"].to_pylist()) == {"return", "zero_noise_return", "gap", "cosine"}
    one = [r for r in table.to_pylist() if r["task"] == "FingerSpin" and r["beta"] == "0.02" and r["seed"] == 2]
    returns = [(r["env_steps"], r["value"]) for r in one if r["quantity"] == "return"]
    assert returns == [(0, 0.0), (50_000, 175.0), (100_000, 350.0), (150_000, 525.0), (200_000, 700.0)]


def test_a_chart_holds_the_mean_over_seeds_its_interval_and_each_seed(content):
    chart = data_of(content)["charts"][0]
    line = next(line for line in chart["lines"] if line["label"] == "beta 0.02")
    assert (chart["title"], chart["x"], chart["xs"]) == ("BallInCup", "env steps", STEPS.tolist())
    assert line["mean"] == pytest.approx([0, 220.83, 441.67, 662.5, 883.33], abs=0.01)
    assert line["seeds"]["0"] == [0, 200, 400, 600, 800]
    assert 800 <= line["low"][-1] < 883 < line["high"][-1] <= 950


def test_the_page_and_the_figure_draw_one_bootstrap_of_each_curve(tmp_path, monkeypatch):
    asked = []

    def noted(statistic, scores):
        asked.append(np.asarray(scores[0]).shape)
        return bootstrap(statistic, scores)

    monkeypatch.setattr(charts, "bootstrap", noted)
    write_runs_report([write_run(tmp_path / "a", beta=0.0), write_run(tmp_path / "b", beta=0.05)], tmp_path / "out")
    curves = [shape for shape in asked if len(shape) == 2]
    assert len(curves) == 4  # return and cosine of two arms


def test_a_gap_that_has_lost_its_meaning_does_not_press_the_others_onto_the_axis(tmp_path):
    runs = [write_run(tmp_path / f"{gap}", beta=1 / gap, gap=gap) for gap in (0.2, 3e23)]
    charts = data_of(write_runs_report(runs, tmp_path / "out").read_text())["charts"]
    (gaps,) = [chart for chart in charts if chart["y"].startswith("gap")]
    assert gaps["log"] and gaps["range"] == [0.1, 1e4] and gaps["lines"][0]["mean"] == [3e23, 0.2]


def test_charts_are_drawn_of_what_was_measured_alone(content, tmp_path):
    assert re.findall(r"<h2>(.*?)</h2>", content)[1:6] == [
        *("Return over env steps", "Final return against beta", "Gap against beta"),
        *("Cosine of the objective&#39;s gradient and the exact one", "Performance profile"),
    ]
    one = write_runs_report([write_run(tmp_path / "a")], tmp_path / "out").read_text()
    assert "<h2>Performance profile" not in one and "<h2>Final return against beta" not in one
    assert "<h2>Return over env steps" in one


def test_the_statistics_are_over_finished_seeds_against_beta_0(study):
    table = {(row.task, row.arm.beta): row for row in rows(collect_study(study))}
    spin = table["FingerSpin", "0.02"]
    assert spin.mean is not None and spin.mean.value == pytest.approx(550.0)
    assert spin.improvement is not None
    # 450 > 400; 500 > 400 and half of 500; 700 > all three
    assert spin.improvement.value == pytest.approx((1 + 1.5 + 3) / 9)
    everything = table["all tasks", "0.02"]
    assert everything.difference is not None
    assert everything.difference.value == pytest.approx((883.33 - 200 + 550 - 500) / 2, abs=0.01)
    assert table["FingerSpin", "auto"].mean is None and ("all tasks", "auto") not in table


def test_a_plain_sentence_says_whether_beta_helps_on_which_task(study, content):
    sentences = verdicts(rows(collect_study(study)))
    everywhere, cup, spin = sentences
    assert everywhere.startswith("All tasks: beta helps at 0.02. With beta 0.02 the mean final return is 367 higher")
    assert cup.startswith("BallInCup: beta helps at 0.02.")
    assert spin.startswith("FingerSpin: the seeds tell no beta from beta 0. With beta 0.02")
    assert all(sentence in content for sentence in sentences)
    assert "hold the true one in 73 % of studies of one task" in content


def test_a_beta_that_lowers_the_return_is_said_to_hurt(tmp_path):
    write_run(tmp_path / "units" / "a", beta=0.0, finals=(900.0, 910.0, 905.0))
    write_run(tmp_path / "units" / "b", beta=0.5, finals=(100.0, 110.0, 120.0))
    (sentence,) = verdicts(rows(collect_study(tmp_path)))
    assert sentence.startswith("BallInCup: beta hurts at 0.5. With beta 0.5 the mean final return is 795 lower")


def test_single_seeds_have_a_difference_without_an_interval(tmp_path):
    write_run(tmp_path / "units" / "a", beta=0.0, finals=(900.0,))
    write_run(tmp_path / "units" / "b", beta=0.5, finals=(950.0,))
    assert verdicts(rows(collect_study(tmp_path)))[0].endswith("of single seeds there is no interval.")
    text = write_study_report(tmp_path).read_text()
    assert "nan" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL).lower()


def test_a_diverged_seed_is_counted_and_takes_no_part_in_the_mean(tmp_path):
    run = write_run(tmp_path / "units" / "a", finals=(900.0, 12.0, 800.0))
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"diverged_seeds": [1]}))
    (row,) = rows(collect_study(tmp_path))
    assert (row.num_seeds, row.num_begun, row.num_diverged) == (2, 3, 1)
    assert row.mean is not None and row.mean.value == 850.0
    assert "2 of 3, 1 diverged" in write_study_report(tmp_path).read_text()


def test_the_best_published_numbers_stand_under_ours_with_their_source(content):
    assert "published: FastTD3, small" in content and "936 ± 84" in content
    assert "published: FPO, 180M env steps" in content and "arXiv 2507.11019: REPPO, small on BallInCup" in content


def test_every_task_of_the_suite_has_a_published_number():
    from dipod_jax.envs.tasks import TASKS

    assert set(BEST) == set(TASKS) and set(FPO) < set(TASKS)
    assert all(FPO[task].mean <= BEST[task].mean <= 1000 for task in FPO)


def test_the_page_says_what_made_it(content):
    command = "dipod train --task FingerSpin --beta 0.02 --seed-list 0 1 2"
    for text in (command, "0123456789ab", "0.10.2", "1 x cpu, 2 CPUs"):
        assert text in content
    assert "4 of 6 runs have ended" in content  # six are planned
    assert "19m21s" in content  # four runs of 240 s and one that has taken 201 s


def test_two_runs_of_one_seed_are_refused_with_both_names(tmp_path):
    runs = [write_run(tmp_path / name) for name in "ab"]
    with pytest.raises(RunFolderError, match=r"seed 0 of BallInCup, fpo, beta 0 is in .*a and in .*b; leave one out"):
        write_runs_report(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_seed_that_two_units_of_a_study_have_is_shown_once_as_far_as_it_has_gone(tmp_path):
    write_run(tmp_path / "units" / "three", finals=(700.0, 800.0, 900.0))
    write_run(tmp_path / "units" / "eight", finals=[100.0] * 8, finished=False)
    study = collect_study(tmp_path)
    assert [(s.seed, s.folder.path.name) for s in study.seeds] == [
        *(
            (0, "three"),
            (1, "three"),
            (2, "three"),
            (3, "eight"),
            (4, "eight"),
            (5, "eight"),
            (6, "eight"),
            (7, "eight"),
        )
    ]
    assert study.left_out["eight, seed 1"] == "three has the same seed"


def test_a_sweep_s_commands_are_shown_in_place_of_those_of_its_workers(tmp_path):
    config, _ = presets.make_config("smoke", "BallInCup", "fpo", "native")
    unit = make_unit(tmp_path, config)
    for command in ("dipod sweep --betas 0", "dipod sweep --betas 0 0.1", "dipod sweep --betas 0"):
        extend_plan(tmp_path, [unit], command)
    write_run(unit.folder)
    text = write_study_report(tmp_path).read_text()
    assert "<pre>dipod sweep --betas 0\ndipod sweep --betas 0 0.1</pre>" in text and "dipod train" not in text
    (tmp_path / "study.json").unlink()
    assert "<pre>dipod train --task BallInCup" in write_study_report(tmp_path).read_text()


def test_a_unit_that_has_failed_is_named_with_its_error(tmp_path):
    config, _ = presets.make_config("smoke", "BallInCup", "fpo", "native")
    unit = make_unit(tmp_path, config)
    extend_plan(tmp_path, [unit], "dipod sweep")
    record_failure(unit, "session", "it ended with status 65 & <b>")
    write_run(unit.folder, finished=False)
    text = write_study_report(tmp_path).read_text()
    assert f"{unit.name}: a try failed: it ended with status 65 &amp; &lt;b&gt;" in text
    assert "0 of 1 runs have ended" in text


def test_a_damaged_unit_is_named_and_the_others_are_shown(tmp_path):
    write_run(tmp_path / "units" / "a")
    write_run(tmp_path / "units" / "b", beta=0.02)
    (tmp_path / "units" / "b" / "metrics.jsonl").write_text("nonsense\n{}\n")
    (tmp_path / "units" / "c").mkdir()  # not begun
    text = write_study_report(tmp_path).read_text()
    assert "metrics.jsonl line 1 is damaged" in text and "<h2>Left out, or failed</h2>" in text
    assert [chart["title"] for chart in data_of(text)["charts"]] == ["BallInCup", "BallInCup"]


def test_the_films_of_the_best_and_the_worst_seed_are_in_the_page(tmp_path, monkeypatch):
    for beta, finals in ((0.0, (300.0, 200.0)), (0.02, (850.0, 900.0)), (0.05, (500.0, 400.0))):
        run = write_run(tmp_path / "units" / f"{beta}", beta=beta, finals=finals)
        for seed in (0, 1):
            (run / f"policy-seed{seed}.mp4").write_bytes(b"film")
    text = write_study_report(tmp_path).read_text()
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text) == [
        "BallInCup, best: beta 0.02, seed 1, final return 900",
        "BallInCup, worst: beta 0, seed 1, final return 200",
    ]
    assert text.count('src="data:video/mp4;base64,') == 2
    monkeypatch.setattr(page, "MAX_EMBEDDED_BYTES", 5)
    assert write_study_report(tmp_path).read_text().count('src="data:video/mp4;base64,') == 1


def test_a_best_seed_without_a_film_is_not_passed_off_as_filmed(tmp_path):
    run = write_run(tmp_path / "units" / "a", finals=(700.0, 900.0, 200.0))
    (run / "policy.mp4").write_bytes(b"film")  # of the first seed, as earlier versions left it
    (caption,) = re.findall(r"<figcaption>(.*?)</figcaption>", write_study_report(tmp_path).read_text())
    assert caption.startswith("BallInCup, best of the filmed: ") and caption.endswith("seed 0, final return 700")


@pytest.mark.parametrize("half", ["", "{", '{"kind": "train", "seed": 0'])
def test_half_a_last_line_leaves_what_stands_before_it(tmp_path, half):
    run = write_run(tmp_path / "units" / "a", finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(half)
    (seed,) = collect_study(tmp_path).seeds
    assert seed.curves["return"].y[-1] == 900.0


def test_labels_of_a_run_stay_text(tmp_path):
    for name, label in zip("abc", HOSTILE, strict=True):
        write_run(tmp_path / "units" / name, task="<b>", objective=label, beta=label, note=label)
    text = write_study_report(tmp_path).read_text()
    assert "<img src" not in text and text.count("<script") == 3 and text.count("</script>") == 3
    labels = " ".join(data_of(text)["legends"]["arms"])
    assert all(label in labels for label in HOSTILE) and data_of(text)["charts"][0]["title"] == "<b>"


def test_the_command_writes_the_page_of_a_study_of_a_run_and_of_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(Path("study"))
    report.main(["study"])
    report.main(["study/units/a"])
    report.main(["study/units/a", "study/units/b"])
    report.main(["study/units/a", "study/units/b", "--out", "two"])
    places = ("study", "study/units/a", "runs/report", "two")
    assert capsys.readouterr().out.splitlines() == [f"report: {place}/report.html" for place in places]
    assert {path.name for path in Path("two").iterdir()} == FILES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "FOLDERS is required"),
        ("empty", "empty is neither a run folder (it has no config.json) nor a study's (it has no units)"),
        ("planned", "planned is a sweep none of whose runs has begun; give its command again"),
        ("waiting", "waiting/units holds no run that can be read yet"),
        ("begun", "begun has no evaluation yet"),
        ("begun/units/a begun", "begun is neither a run folder"),
        ("begun/units/a --out x", "--out x is not allowed"),
        ("begun/units/a begun/units/b --out file", "--out: value 'file'"),
    ],
)
def test_a_folder_of_which_there_is_nothing_to_report_is_one_line_and_nothing_written(
    arguments, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "waiting/units/a"):
        Path(folder).mkdir(parents=True)
    for name in "ab":
        (write_run(Path("begun/units") / name, finished=False) / "metrics.jsonl").unlink()
    Path("planned").mkdir()
    for file in ("file", "planned/plan.json"):
        Path(file).write_text("")
    before = sorted(Path().rglob("*"))
    assert words in errors_of(report, arguments.split(), capsys)
    assert sorted(Path().rglob("*")) == before


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def shown(browser: Browser) -> list[dict]:
    return browser.run("dipodCharts()")


@needs_chromium
def test_a_browser_draws_every_chart_without_a_complaint_or_a_request(browser, study, content):
    browser.open(study / "report.html")
    assert [chart["title"] for chart in shown(browser)] == [chart["title"] for chart in data_of(content)["charts"]]
    painted = "[...document.querySelectorAll('canvas')].map((c) => new Set(c.getContext('2d').getImageData("
    colours = browser.run(painted + "0, 0, c.width, c.height).data).size)")
    assert len(colours) == len(shown(browser)) and min(colours) > 10
    assert browser.complaints() == [] and browser.requests() == []


@needs_chromium
def test_a_click_on_the_legend_hides_a_line_in_every_chart_and_shows_it_again(browser, study):
    browser.open(study / "report.html")
    first = '.legend[data-group="arms"] button'
    for pressed, there in (("false", False), ("true", True)):
        browser.click(first)
        assert browser.run(f"document.querySelector('{first}').getAttribute('aria-pressed')") == pressed
        with_steps = [chart for chart in shown(browser) if chart["title"]]
        assert [("beta 0" in chart["shown"]) for chart in with_steps] == 4 * [there]
        assert all("beta 0.02" in chart["shown"] for chart in with_steps)


@needs_chromium
def test_a_double_click_on_the_legend_leaves_one_line_and_another_brings_all_back(browser, study):
    browser.open(study / "report.html")
    last = '.legend[data-group="arms"] button:last-child'
    for labels in ({"beta auto"}, {"beta 0", "beta 0.02", "beta auto"}):
        browser.click(last, times=2)
        assert set(shown(browser)[1]["shown"]) == labels


@needs_chromium
def test_two_fingers_that_spread_zoom_on_a_phone(browser, study):
    browser.open(study / "report.html", width=390, height=844)
    x, y, _, _ = browser.place('[data-chart="0"] .u-over')
    for kind, apart in (("touchStart", 30), ("touchMove", 60), ("touchEnd", None)):
        points = [] if apart is None else [{"x": x - apart, "y": y}, {"x": x + apart, "y": y}]
        browser.ask("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    low, high = shown(browser)[0]["x"]
    assert (low, high) == (pytest.approx(50_000, abs=2000), pytest.approx(150_000, abs=2000))


@needs_chromium
def test_single_seeds_come_with_the_box_or_where_the_mouse_points(browser, study):
    browser.open(study / "report.html")
    count = lambda: shown(browser)[0]["shown"].count("beta 0.02")
    assert count() == 3  # the mean and the two edges of its band
    browser.click(".each-seed")
    assert count() == 3 + 3
    browser.click(".each-seed")
    assert count() == 3
    browser.point('[data-chart="0"] .u-over', 0.75)
    tip = "document.querySelector('[data-chart=\"0\"] .tip')"
    browser.wait(lambda: not browser.run(f"{tip}.hidden"))
    assert browser.run(f"{tip}.firstChild.textContent") == "env steps 150k"
    assert "beta 0.02: 663 (600 to" in browser.run(f"{tip}.textContent")


@needs_chromium
def test_a_drag_zooms_and_the_button_shows_the_whole_range_again(browser, study):
    browser.open(study / "report.html")
    browser.drag('[data-chart="0"] .u-over', 0.25, 0.5)
    low, high = shown(browser)[0]["x"]
    assert (low, high) == (pytest.approx(50_000, abs=1500), pytest.approx(100_000, abs=1500))
    assert shown(browser)[1]["x"] == [0, 200_000]
    browser.click(".reset")
    assert shown(browser)[0]["x"] == [0, 200_000]


@needs_chromium
def test_hostile_labels_are_shown_as_they_are_written(browser, tmp_path):
    for name, label in zip("abc", HOSTILE, strict=True):
        write_run(tmp_path / "units" / name, task=label, objective=label, beta=label)
    browser.open(write_study_report(tmp_path))
    browser.point('[data-chart="0"] .u-over', 0.5)
    assert browser.run("document.querySelectorAll('img').length") == 0
    text = browser.run("document.body.textContent")
    assert all(label in text for label in HOSTILE) and browser.complaints() == [] and browser.requests() == []
    assert [event for event in browser.events if event.get("method") == "Page.javascriptDialogOpening"] == []


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_nothing_scrolls_sideways_in_light_and_in_dark(browser, study, tmp_path, dark):
    browser.open(study / "report.html", width=390, height=844, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") == 390
    assert browser.run("Math.max(...[...document.querySelectorAll('.uplot')].map((plot) => plot.offsetWidth))") <= 350
    browser.screenshot(tmp_path / "phone.png")
    paper = np.asarray(Image.open(tmp_path / "phone.png").convert("L"))[:8].mean()
    assert paper < 40 if dark else paper > 250

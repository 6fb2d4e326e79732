"""The report is one page that needs nothing beside it and says only what the run wrote."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dipod_jax.report import objective_of, run, write_report
from dipod_jax.report._page import flatten
from dipod_jax.runs import RunFolder
from dipod_jax.training.results import summarise

OBJECTIVE = {"name": "fpo", "clip_epsilon": 0.05}
CONFIG = {"task": "BallInCup", "objective": OBJECTIVE, "beta": 0.002, "note": "<script>x</script>"}
RESULT = {
    "seeds": [3, 4],
    "env_steps": 1_310_720,
    "wall_clock_s": 158.2,
    "env_steps_per_s": 8284.1,
    "final_return": summarise(np.array([[965.0, 967.0], [944.4, 944.4]])),
    "seconds_to": {"500": [63.2, 83.1], "900": [125.4, None]},
}


class Page(HTMLParser):
    """Text, embedded sources, and whether every element was closed."""

    VOID = ("meta", "img")

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.sources: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name == "src"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.append(data.strip())


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", CONFIG)


def read(folder: RunFolder) -> Page:
    path = write_report(folder)
    assert path == folder.path / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_nested_settings_are_written_as_options_are():
    assert flatten({"a": 1, "b": {"c": {"d": [2]}, "e": {}}}) == {"a": 1, "b.c.d": [2], "b.e": {}}


@pytest.mark.parametrize(
    "config",
    [
        {"objective": {"name": "exact-ppo", "clip_epsilon": 0.1}},
        {"objective": "exact-ppo", "fpo": {"clip_epsilon": 0.05}, "ppo": {"clip_epsilon": 0.1}},
    ],
)
def test_an_objective_is_read_from_folders_of_both_kinds(config):
    assert objective_of(config) == ("exact-ppo", {"clip_epsilon": 0.1})


def test_a_config_without_an_objective_has_none():
    assert objective_of({}) == (None, {})


def test_a_run_that_has_not_ended_gets_a_page_that_says_so(folder):
    page = read(folder)
    assert page.text[1].startswith("BallInCup · fpo · beta 0.002") or "BallInCup · fpo · beta 0.002" in page.text
    assert any("this run has not ended" in text for text in page.text)
    assert page.sources == []


def test_the_page_shows_the_result_and_each_seed(folder):
    folder.write_result(RESULT)
    text = read(folder).text
    for figure in ("955 ± 137", "1.31M", "2m38s", "8.28k", "± is the 95 % interval of the mean over seeds."):
        assert figure in text
    row = text.index("seed")
    assert text[row : row + 12] == [
        *("seed", "final return", "seconds to 500", "seconds to 900"),
        *("3", "966.0", "63.2", "125.4", "4", "944.4", "83.1", "never"),
    ]


def test_the_page_says_which_seed_diverged_and_rounds_no_small_return_away(folder):
    small = summarise(np.array([[0.42, 0.46], [0.4, 0.4]]))
    folder.write_result(RESULT | {"final_return": small, "diverged_seeds": [4]})
    text = read(folder).text
    assert any(part.startswith("0.42 ±") for part in text)
    assert "Diverged: seed 4. The return is that of the policy it was left with." in text


def test_the_page_shows_the_whole_configuration_and_escapes_it(folder):
    page = read(folder)
    for text in ("objective.clip_epsilon", "0.05", "<script>x</script>", "versions.jax", "machine.device_kind"):
        assert text in page.text
    assert "<script" not in (folder.path / "report.html").read_text()


def test_labels_of_a_result_stay_text_too(folder):
    folder.write_result({**RESULT, "note": '"><img src=x>', "seconds_to": {"<b>": [1.0, 2.0]}})
    page = read(folder)
    assert page.sources == [] and "seconds to <b>" in page.text and '"><img src=x>.' in page.text


def test_the_page_asks_for_nothing_outside_itself(folder):
    content = write_report(folder).read_text(encoding="utf-8")
    assert "http" not in content and "url(" not in content and "<link" not in content


def test_the_page_follows_the_readers_light_or_dark(folder):
    content = write_report(folder).read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in content and 'content="light dark"' in content


def test_pictures_and_film_are_inside_the_page(folder):
    for name in ("returns.png", "drift.png"):
        Image.new("RGB", (8, 8)).save(folder.path / name)
    folder.write_result(RESULT)
    folder.film(RESULT["seeds"][1]).write_bytes(b"film")
    sources = read(folder).sources
    assert [source.split(",")[0] for source in sources] == [
        *("data:image/png;base64", "data:video/mp4;base64", "data:image/png;base64")
    ]


def test_a_long_film_is_linked_beside_the_page(folder, monkeypatch):
    monkeypatch.setattr(run, "MAX_EMBEDDED_BYTES", 3)
    folder.write_result(RESULT)
    film = folder.film(RESULT["seeds"][0])
    film.write_bytes(b"film")
    assert read(folder).sources == [film.name]


def test_nothing_but_the_report_is_added_to_the_folder(folder):
    before = {path.name for path in Path(folder.path).iterdir()}
    write_report(folder)
    write_report(folder)
    assert {path.name for path in Path(folder.path).iterdir()} - before == {"report.html"}


@pytest.mark.parametrize(
    ("returns", "number", "note"),
    [
        ([[0.0, 0.0]], "0", "All episodes returned exactly 0: the policy was never rewarded."),
        ([[7.0, 7.0]], "7", "All episodes returned the same."),
        ([[969.9, 970.1]], "970 ± 1", "± is the 95 % interval of the mean over episodes."),
        ([[969.99, 970.01]], "970 ± 0.1", "± is the 95 % interval of the mean over episodes."),
    ],
)
def test_an_interval_of_no_width_is_not_shown_as_plus_minus_0(folder, returns, number, note):
    folder.write_result(RESULT | {"final_return": summarise(np.array(returns))})
    text = read(folder).text
    assert number in text and note in text


@pytest.mark.parametrize(("length", "said"), [(250, True), (1000, False)])
def test_shorter_training_episodes_are_set_apart_from_the_evaluations(tmp_path, length, said):
    folder = RunFolder.create(tmp_path / "run", CONFIG | {"rollout": {"episode_length": length}})
    folder.write_result(RESULT)
    told = [text for text in read(folder).text if "Training truncates its episodes after 250" in text]
    assert len(told) == said


def test_a_language_run_shows_accuracy_and_gap_where_another_shows_its_return(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"task": "sudoku", "objective": {"name": "fpo"}, "beta": 0.05})
    final = {"greedy": {"mean": 0.834, "per_seed": [0.834]}, "drift/gap": {"mean": 0.331, "per_seed": [0.331]}}
    folder.write_result(
        {"samples": 11_520, "seeds": [0], "final_return": {"mean": 0.9, "per_seed": [0.9]}, "final": final}
    )
    text = read(folder).text
    shown = {label: text[text.index(label) - 1] for label in ("greedy accuracy", "gap, nats", "answers learned from")}
    assert shown == {"greedy accuracy": "0.83", "gap, nats": "0.33", "answers learned from": "11.5k"}
    assert "final return" not in text

"""The report is one page that needs nothing beside it and says only what the run wrote."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dipod_jax.runs import RunFolder
from dipod_jax.training.results import summarise
from dipod_jax.viz import report, write_report
from dipod_jax.viz.report import flatten

CONFIG = {"task": "BallInCup", "objective": "fpo", "beta": 0.002, "fpo": {"clip": 0.05}, "note": "<script>x</script>"}
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


def test_a_run_that_has_not_ended_gets_a_page_that_says_so(folder):
    page = read(folder)
    assert page.text[1].startswith("BallInCup · fpo · beta 0.002") or "BallInCup · fpo · beta 0.002" in page.text
    assert any("this run has not ended" in text for text in page.text)
    assert page.sources == []


def test_the_page_shows_the_result_and_each_seed(folder):
    folder.write_result(RESULT)
    text = read(folder).text
    for figure in ("955 ± 137", "1.31M", "2m38s", "8.28k"):
        assert figure in text
    row = text.index("seed")
    assert text[row : row + 12] == [
        *("seed", "final return", "seconds to 500", "seconds to 900"),
        *("3", "966.0", "63.2", "125.4", "4", "944.4", "83.1", "never"),
    ]


def test_the_page_shows_the_whole_configuration_and_escapes_it(folder):
    page = read(folder)
    for text in ("fpo.clip", "0.05", "<script>x</script>", "versions.jax", "machine.device_kind"):
        assert text in page.text
    assert "<script" not in (folder.path / "report.html").read_text()


def test_pictures_and_film_are_inside_the_page(folder):
    for name in ("returns.png", "drift.png"):
        Image.new("RGB", (8, 8)).save(folder.path / name)
    (folder.path / "policy.mp4").write_bytes(b"film")
    sources = read(folder).sources
    assert [source.split(",")[0] for source in sources] == [
        *("data:image/png;base64", "data:video/mp4;base64", "data:image/png;base64")
    ]


def test_a_long_film_is_linked_beside_the_page(folder, monkeypatch):
    monkeypatch.setattr(report, "MAX_EMBEDDED_BYTES", 3)
    (folder.path / "policy.mp4").write_bytes(b"film")
    assert read(folder).sources == ["policy.mp4"]


def test_nothing_but_the_report_is_added_to_the_folder(folder):
    before = {path.name for path in Path(folder.path).iterdir()}
    write_report(folder)
    write_report(folder)
    assert {path.name for path in Path(folder.path).iterdir()} - before == {"report.html"}

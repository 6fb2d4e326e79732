"""The pages: every one is listed, and every link between files leads somewhere. `make docs` checks the built site."""

import lzma
import re
from pathlib import Path

import pytest

from dipod_jax.studies.published import BEST

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MADE = {"api", "_build", "results"}  # by `make docs`, and by the commands whose results they are
PAGES = sorted(
    page for page in DOCS.rglob("*.md") if page.name != "index.md" and not MADE & set(page.relative_to(DOCS).parts)
)
INDEX = (DOCS / "index.md").read_text(encoding="utf-8")
NAMES = {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES}
LINK = re.compile(r"(?:\]\(|src=\")([^)\"\s]+)")


def test_the_index_says_what_each_page_answers_and_lists_it_once():
    rows = re.findall(r"^\| \[[^]]+\]\(([\w/]+)\.md\) \| (.+\?) \|$", INDEX, re.MULTILINE)
    assert [name for name, _ in rows] == list(dict.fromkeys(name for name, _ in rows))
    assert {name for name, _ in rows} == NAMES
    listed = [line for block in re.findall(r"```\{toctree\}(.+?)```", INDEX, re.DOTALL) for line in block.split()]
    assert all(listed.count(name) == 1 for name in NAMES)


@pytest.mark.parametrize("archive", sorted((DOCS / "results").rglob("*.tar.xz")), ids=lambda path: path.parent.name)
def test_an_archive_of_runs_names_no_folder_of_the_machine_that_made_them(archive):
    assert re.findall(rb"""["' =](/[A-Za-z][\w.-]*/[^"' ]*)""", lzma.decompress(archive.read_bytes()))[:3] == []


def test_every_page_but_the_log_says_first_which_question_it_answers():
    for page in PAGES:
        if "log" not in page.relative_to(DOCS).parts:
            title, first = page.read_text(encoding="utf-8").strip().split("\n\n")[:2]
            assert title.startswith("# ") and first.endswith("?"), page.name


def test_the_readme_is_read_in_three_minutes_and_new_pages_in_two():
    words = lambda page: len(page.read_text(encoding="utf-8").split())
    assert words(ROOT / "README.md") < 700
    for folder in ("concepts", "howto"):
        assert {page.name: words(page) for page in (DOCS / folder).glob("*.md") if words(page) > 500} == {}


def test_the_readme_and_the_results_give_the_best_published_returns_that_reports_show():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    results = (DOCS / "results.md").read_text(encoding="utf-8")
    given = re.findall(r"^\| (\w+) \| \d+M \|.*\| (\d+) \|$", readme, re.MULTILINE)
    assert {task: BEST[task].mean for task, _ in given} == {task: int(best) for task, best in given} != {}
    for table in re.findall(r"^\| .* \| best published \|\n\|[-|]+\n((?:\|.*\n)+)", results, re.MULTILINE):
        for task, best in re.findall(r"^\| (\w+) \|.*\| (\d+)(?: \(\w+\))? \|$", table, re.MULTILINE):
            assert BEST[task].mean == int(best), task


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name
)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """What GitHub and MyST call the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

"""The pages: every one is listed, and every link between files leads somewhere. `make docs` checks the built site."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.glob("*.md") if page.name != "index.md")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_the_index_says_what_each_page_answers_and_lists_it_once():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[[^]]+\]\((\w+)\.md\) \| (.+\?) \|$", index, re.MULTILINE)
    assert [name for name, _ in rows] == list(dict.fromkeys(name for name, _ in rows))
    assert {name for name, _ in rows} == {page.stem for page in PAGES}
    listed = [line for block in re.findall(r"```\{toctree\}(.+?)```", index, re.DOTALL) for line in block.split()]
    assert all(listed.count(page.stem) == 1 for page in PAGES)


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

"""Every link has a target."""

import re

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, links

LINKS = [(page, target) for page, text in PAGES.items() for target in links(text)]


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_a_link_leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    place = (ROOT / page).parent / path if path else ROOT / page
    assert place.exists()
    if anchor:
        assert anchor in anchors(place.read_text("utf-8"))


def test_there_are_links_to_check():
    assert len(LINKS) > 20


def test_every_page_can_be_reached_from_the_readme():
    reached, ahead = set(), ["README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in links(PAGES[page]):
            place = ((ROOT / page).parent / target.partition("#")[0]).resolve().relative_to(ROOT.resolve())
            ahead += [name for name in PAGES if name == str(place) or name.startswith(f"{place}/")]
    assert set(PAGES) - reached == set()


def test_what_the_code_says_of_the_docs_is_there():
    named = {
        name
        for path in (ROOT / "bridge").rglob("*.py")
        for name in re.findall(r"docs/[\w./-]+\.md", path.read_text("utf-8"))
    }
    assert "docs/metrics.md" in named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_decision_says_what_was_not_taken():
    decisions = {page: text for page, text in PAGES.items() if page.startswith("docs/decisions/")}
    for page, text in decisions.items():
        assert re.fullmatch(r"docs/decisions/\d{4}-\d\d-\d\d-[a-z0-9-]+\.md", page)
        assert re.search(r"^Status: \w+", text, re.MULTILINE), page
        for heading in ("Context", "Decision", "Consequences", "Options not taken"):
            assert f"\n## {heading}\n" in text, page


GUIDE = (ROOT / "llms.txt").read_text("utf-8")


@pytest.mark.parametrize("target", list(links(GUIDE)))
def test_a_link_of_the_guide_for_models_leads_somewhere(target):
    assert (ROOT / target).exists()


def test_the_guide_for_models_names_every_page():
    named = {*links(GUIDE)}
    pages = {page for page in PAGES if not page.startswith("docs/decisions/")}
    assert pages - named == set()
    assert re.match(r"# .+\n\n> .+\n\n", GUIDE)


def test_a_picture_is_there_and_says_what_it_shows():
    shown = [
        (page, words, target)
        for page, text in PAGES.items()
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", text)
    ]
    assert ("docs/concepts.md", "docs/concepts.svg") in {
        (page, f"docs/{target}") for page, _, target in shown
    }
    for page, words, target in shown:
        assert len(words) > 10, (page, target)
        if target.endswith(".svg") and target.startswith("concepts"):
            assert "prefers-color-scheme: dark" in (ROOT / page).parent.joinpath(target).read_text("utf-8")

"""results/README.md as it is generated, and the log that a person keeps below it."""

import re

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from lib.harness import claims, front, index, pages, paths, plots, results

CITED = list(dict.fromkeys(pd.read_csv(paths.TABLES / "claims.csv").paper))  # a new paper has no runs yet


@pytest.fixture(scope="module")
def page():
    return (paths.RESULTS / "README.md").read_text()


@pytest.fixture(scope="module")
def sections(page):
    """Name -> text between one heading of the second level and the next."""
    parts = re.split(r"^## (.*)$", page, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


@pytest.mark.parametrize("paper", CITED)
def test_a_paper_is_read_from_its_finding_to_its_runs(paper, sections):
    name = front.about(paper)["name"]
    text = sections[name]
    first = next(iter(plots.INDEX[paper]))
    order = ["arxiv.org", ".", f"figures/{paper}_{first}.svg", "Headline claims", "<details>", "more claims:",
        "controls:", "arms: mean", "settings of these runs", "runs: ", "Executed notebook",
        f"#{front.anchor(name)}-log"]  # fmt: skip
    at = [text.find(words) for words in order]
    assert -1 not in at and at[2:] == sorted(at[2:])
    assert text.count("<details>") == text.count("</details>") > 3
    assert all(f"figures/{paper}_{figure}.svg" in text for figure in plots.INDEX[paper])
    assert all(r.dir.name in text for r in results.evidence(results.load_runs(paper)))


def test_nothing_that_was_not_published_takes_room(sections):
    generated = "".join(text for name, text in sections.items() if name != "Log")
    assert "| not seen |" not in generated and "no number published" not in generated
    assert "| published |" in sections["SEA"] and "| published |" not in sections["QDPO"]


def test_every_picture_has_words_and_every_link_leads_somewhere(page):
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", page)
    assert len(pictures) == sum(len(plots.INDEX[p]) for p in CITED) + 2 and all(
        len(words) > 20 for words, _ in pictures
    )
    links = set(re.findall(r"\]\(([^)#:]+)\)", page))
    assert not [x for x in links if not (paths.RESULTS / x).exists()]
    headings = {front.anchor(h) for h in re.findall(r"^#+ (.*)$", page, re.M)}
    assert not set(re.findall(r"\]\(#([^)]+)\)", page)) - headings


def test_the_log_is_by_paper_and_newest_first(sections):
    parts = re.split(r"^### (.*): log$", sections["Log"], flags=re.M)
    names = [front.about(p)["name"] for p in CITED]
    assert parts[1::2] == [*names, "All papers"]
    for entries in parts[2::2]:
        dates = re.findall(r"^- \*\*(\d{4}-\d\d-\d\d), ", entries, re.M)
        assert dates and dates == sorted(dates, reverse=True) and len(dates) == entries.count("\n- **")


def test_settings_stand_beside_the_papers(sections):
    rows = pages.settings("mrpo", {"beta": 0.3, "gone": 1})
    assert rows.count("\n") == 2 and rows.splitlines()[2].startswith("| beta | 0.3 | ")
    assert "| beta |" in sections["MRPO"] and "| bits |" in sections["QDPO"]


def test_folded_text_is_hidden_and_nothing_makes_nothing():
    assert pages.folded("more", "x\n") == "<details><summary>more</summary>\n\nx\n\n</details>\n"
    assert pages.folded("more", " ") == ""


def test_without_a_run_the_page_says_how_to_read_it():
    page = pages.results([], [], claims.evaluate([]), index.speed_markdown([]))
    assert "**holds**" in page and page.count("figures/") == 1


@pytest.mark.slow
def test_the_notebook_of_results_shows_every_figure_once_and_warns_of_nothing(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as in JupyterLab
    path = paths.NOTEBOOKS / "90_results.ipynb"
    book = NotebookClient(nbformat.read(path, 4), timeout=300, resources={"metadata": {"path": str(path.parent)}})
    outputs = [o for c in book.execute().cells for o in c.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == sum(len(plots.INDEX[p]) for p in CITED) + 1
    assert not [o.text for o in outputs if o.get("name") == "stderr"]
    said = "".join(o.get("data", {}).get("text/markdown", "") for o in outputs)
    assert all(f"### {front.about(p)['name']}" in said for p in CITED) and "not seen" not in said

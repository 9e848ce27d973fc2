"""What is found, in words."""

import pandas as pd
import pytest

from lib.harness import claims, front
from lib.harness.claims.claim import CLAIM
from lib.harness.claims.verdicts import CANNOT, FAILS, HOLDS, OPEN, SAME

HEADS = {p: [c for c in m.CLAIMS if c.headline and c.role == CLAIM] for p, m in claims.PAPERS.items()}


def table(paper, *verdicts):
    rows = [
        (c.id, paper, True, CLAIM, c.statement, "", "", 0.1, 0.05, 0.2, 0.02, 0.1, 9, 3, "study", v, "")
        for c, v in zip(HEADS[paper], verdicts, strict=True)
    ]
    return pd.DataFrame(rows, columns=claims.COLUMNS)


def test_every_headline_has_its_own_words_and_no_words_are_left_over():
    assert {p: {c.id for c in heads} for p, heads in HEADS.items()} == {p: set(w) for p, w in front.PLAIN.items()}
    said = [w for words in front.PLAIN.values() for w in words.values()]
    assert len(set(said)) == len(said) and max(map(len, said)) <= 55


def test_the_sentences_follow_the_verdicts():
    one, other = front.finding(table("qdpo", HOLDS, FAILS, SAME, OPEN, CANNOT))
    assert one == (
        "It holds that accuracy hides the tokens that quantization flips; the opposite is seen of “a flipped "
        "token explains the divergence after it”; no difference is seen in “labels need no annotator”."
    )
    assert other == (
        "It is not resolved whether QDPO repairs what quantization broke; it cannot be told here whether QDPO beats "
        "distillation."
    )
    assert front.finding(table("lab", *[OPEN] * 5))[0] == "No headline claim is decided."
    assert front.finding(table("lab", *[HOLDS] * 5))[1] == "Nothing is left open."


def test_exact_worlds_are_named_once_or_at_each_clause():
    all_exact, _ = front.finding(table("mrpo", HOLDS, SAME, FAILS, HOLDS, HOLDS))
    assert all_exact.startswith("In exact worlds it holds that") and front.EXACT not in all_exact
    mixed, _ = front.finding(table("sea", HOLDS, OPEN, HOLDS, OPEN, OPEN))
    assert mixed.count(front.EXACT) == 1 and not mixed.startswith("In exact")


def test_a_claim_without_words_is_its_statement():
    assert front.clause("qdpo", "Z9", "Something new: as measured") == "Something new"


def test_the_page_names_every_paper_and_links_it():
    whole = pd.concat([table(p, *[HOLDS] * 5) for p in claims.PAPERS])
    page = front.page(whole)
    assert page.count("\n| [") == len(claims.PAPERS) and "5 holds" in page
    assert "[QDPO](https://arxiv.org/abs/2407.03051)" in page and "notebooks/10_qdpo.ipynb" in page
    assert f"![{len(whole)} headline claims" in page and front.FIGURE in page


@pytest.mark.parametrize("heading, found", [("QDPO", "qdpo"), ("LAB: log", "lab-log"),
    ("Attribute-controlled fine-tuning", "attribute-controlled-fine-tuning")])  # fmt: skip
def test_anchors_are_those_of_github(heading, found):
    assert front.anchor(heading) == found

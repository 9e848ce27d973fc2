import pandas as pd

from lib.harness import board, claims
from lib.harness.claims.claim import CLAIM, POSITIVE

NAN = float("nan")


def row(id, value, low, high, verdict, *, paper="p", headline=True, role=CLAIM, why=""):
    statement = f"{id} says so at a length that no terminal of eighty columns shows in one line without a break"
    return (id, paper, headline, role, statement, "s", "not seen", value, low, high, 0.02, 0.1, 9, 3, "study", verdict,
        why)  # fmt: skip


TABLE = pd.DataFrame(
    [
        row("C1", 0.25, 0.2, 0.3, "holds"),
        row("C2", 0.01, -0.2, 0.3, "not resolved", why="this study sees an effect of 0.1, 0.02 is worth having"),
        row("C3", -0.25, -0.3, -0.2, "fails", headline=False),
        row("C4", NAN, NAN, NAN, "not run", headline=False),
        row("P1", 0.5, 0.4, 0.6, "holds", headline=False, role=POSITIVE),
        row("C1", NAN, NAN, NAN, "not run", paper="q"),
    ],
    columns=claims.COLUMNS,
)


def test_a_terminal_of_80_columns_shows_headlines_and_counts_the_rest():
    text = board.text(TABLE)
    assert max(map(len, text.splitlines())) <= 80 and "nan" not in text
    assert "holds            C1                    0.250 [0.200, 0.300]" in text and "C3" not in text
    assert "and 2 details: 1 fails, 1 not run" in text and "q: not run" in text
    assert "p: 3 seed(s), preset study" in text and "(this study sees an effect of 0.1" in text


def test_a_page_shows_headlines_and_folds_the_rest():
    page, folded = board.markdown(TABLE), board.folded(TABLE[TABLE.paper == "p"])
    assert page.count("\n") == 4 and "| **p C1** C1 says" in page and "nan" not in page + folded
    assert "| **holds** |" in page and "| **not resolved**; this study sees an effect" in page
    assert "<summary>2 more claims: 1 fails, 1 not run</summary>" in folded
    assert "<summary>1 controls: 1 holds</summary>" in folded and "C1 says" not in folded


def test_what_was_published_takes_a_column_only_where_a_number_was():
    assert "published" not in board.page(TABLE) and board.page(TABLE).count(" --- ") == 4
    one = TABLE.assign(published=["2 times (table 1)", *TABLE.published[1:]])
    lines = board.page(one).splitlines()
    assert "| published |" in lines[0] and "| 2 times (table 1) |" in lines[2] and "| – |" in lines[3]
    assert "not seen" not in board.page(one)


def test_cells_with_a_stroke_stay_cells():
    assert board.plain_table(pd.DataFrame({"a": ["x | y"]})) == "| a |\n| --- |\n| x \\| y |"


def test_a_run_beside_the_cited_ones_in_80_columns():
    columns = ["claim", "statement", "published", "this run", "cited", "low", "high", "verdict", "one more seed"]
    table = pd.DataFrame([("C1", "says " * 30, "not seen", 0.2, 0.25, 0.2, 0.3, "holds", "agrees"),
        ("C2", "says", "not seen", NAN, NAN, NAN, NAN, "not run", "not run here")], columns=columns)  # fmt: skip
    text = board.beside(table)
    assert max(map(len, text.splitlines())) <= 80 and "cited 0.250 [0.200, 0.300], holds" in text
    assert "agrees: says" in text and "nothing cited" in text and "nan" not in text

import pandas as pd

from lib.harness import claims, index, paths

TABLE = pd.DataFrame([
    ("C1", "p", "says so", "s", "not seen", 0.25, 0.2, 0.3, 9, 3, "small", "holds"),
    ("C2", "p", "says more", "s", "not seen", float("nan"), float("nan"), float("nan"), 0, 0, "", "not run"),
], columns=claims.COLUMNS)  # fmt: skip


def test_claims_as_text_and_markdown():
    text, table = index.claims_text(TABLE), index.claims_markdown(TABLE)
    assert "0.250 [0.200, 0.300]" in text and "nan" not in text + table
    assert "**holds**" in table and table.count("\n") == 3


def test_what_a_person_wrote_stays(sandbox):
    page = sandbox / "README.md"
    page.write_text(f"above\n{index.BEGIN}\nold\n{index.END}\nbelow\n")
    assert index._between(page, "", "new") == f"above\n{index.BEGIN}\nnew\n{index.END}\nbelow\n"


def test_write_then_check(sandbox, monkeypatch):
    monkeypatch.setattr(index.paths, "ROOT", sandbox)  # leave the real README alone
    written = index.write()
    assert paths.TABLES / "claims.csv" in written and index.check() == []
    (paths.TABLES / "claims.csv").write_text("changed")
    assert index.check() == ["claims.csv is not what the runs give: run `make results`"]

from lib.harness import index, paths


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

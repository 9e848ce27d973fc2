"""A world of references on the tiny model."""

import numpy as np
import pytest
import torch

from lib import data, losses
from lib.scoring.likelihood import completion_logprobs
from lib.studies.mrpo import candidates, multi_reference
from lib.studies.mrpo.candidates import Choice


def picks(world, split="train", n=6):
    rng = np.random.default_rng(0)
    return [Choice(int(r), int(a), int((a + 1) % 4), 1.0) for r, a in zip(rng.integers(0, 4, n), rng.integers(0, 4, n))]


def test_scores_are_those_of_the_whole_model(world, tiny_model):
    c = world.splits["test"]
    want = completion_logprobs(tiny_model, c.ids, *zip(*c.answers), batch=2)
    assert torch.allclose(world.score("test"), want, atol=1e-4)
    table = world.table(["base"], "test", picks(world))
    assert torch.allclose(table.chosen[0], candidates.gather(want, picks(world))[0], atol=1e-4)


def test_references_are_kept_and_the_model_put_back(world, tiny_model):
    logits = lambda: tiny_model(torch.tensor([[5, 6, 7]])).logits  # noqa: E731
    start, chosen = logits(), picks(world)
    loss = lambda w, l, i: losses.dpo(w, l, *(x[0, i] for x in table[:2]), beta=0.1)  # noqa: E731
    table = world.table(["base"], "train", chosen)
    curve = world.fit(chosen, loss, lr=1e-2, steps=4, desc="complementary")
    assert curve[0]["loss"] == pytest.approx(np.log(2), abs=1e-4) and curve[-1]["loss"] < curve[0]["loss"]
    world.weights["complementary"] = world.snapshot()
    tuned = logits()
    assert not torch.allclose(tuned, start)
    assert torch.allclose(world.matrix("base", "test"), world.matrix("base", "test")) and torch.equal(logits(), tuned)
    world.load("base")
    assert torch.equal(logits(), start)
    wrong, right = world.matrix("mis-scored", "test"), world.matrix("complementary", "test")
    assert not torch.equal(wrong, right) and torch.equal(wrong.flatten().sort().values, right.flatten().sort().values)
    states = world.chosen_states("complementary", chosen)
    assert torch.equal(logits(), start) and [len(s) for s in states] == [
        len(world.splits["train"].answers[c.row][c.chosen]) for c in chosen
    ]


def test_only_the_pairs_candidates_are_scored_and_they_score_as_all_do(world):
    world.weights["complementary"] = {n: w + 0.01 for n, w in world.weights["base"].items()}
    chosen = picks(world, "train", n=2)
    for name in ("complementary", "mis-scored"):
        part = world.table(["base", name], "train", chosen)
        known = world.matrices["complementary", "train"].isfinite()
        assert 0 < known.sum() < known.numel()
        world.matrices.pop(("complementary", "train"))
        whole = candidates.gather(world.matrix(name, "train"), chosen)
        assert torch.allclose(part.chosen[1], whole[0], atol=1e-4) and torch.allclose(
            part.rejected[1], whole[1], atol=1e-4
        )
        world.matrices.pop(("complementary", "train"))


def test_accuracy_without_a_reference(world):
    chosen = picks(world, "test")
    w, l = candidates.gather(world.score("test"), chosen)
    n, m = candidates.gather(world.tokens["test"], chosen)
    assert world.accuracy("test", chosen) == pytest.approx((w / n > l / m).double().mean().item())


def test_a_scarce_task_keeps_topics_apart(world):
    import collections

    kinds = sorted({p.category for p in world.splits["train"].prompts})
    Cfg = collections.namedtuple("Cfg", "n_scarce n_abundant n_reference n_heldout seed")
    world.splits["train"] = world.splits["train"]._replace(
        prompts=[p._replace(category="ab"[i % 2]) for i, p in enumerate(world.splits["train"].prompts)]
    )
    world.splits["validation"] = world.splits["test"]
    t = multi_reference.task(world.splits, "plain", Cfg(2, 2, 2, 2, 0), scarce=True)
    assert kinds and {c.row % 2 for c in t.train} == {1} and {c.row % 2 for c in t.reference} == {0}


def test_a_task_of_given_pairs_keeps_the_reference_apart(byte_tokenizer):
    import collections

    Cfg = collections.namedtuple("Cfg", "n_scarce n_abundant n_reference seed")
    ask = lambda text: data.Comparison(({"role": "user", "content": text},), "yes", "no")  # noqa: E731
    sets = {name: [ask(f"{name}{i}") for i in range(12)] for name in "ab"}
    splits = candidates.of_pairs(sets, byte_tokenizer, sizes={"train": 8, "validation": 2, "test": 2}, stop_ids=[257])
    few, many = (multi_reference.given(splits, "b", Cfg(3, 5, 3, 0), scarce=s) for s in (True, False))
    assert (
        [len(x) for x in few[1:5]] == [3, 3, 2, 2]
        and len(many.train) == 5
        and few.name != many.name
        and few.category == "b"
    )
    assert not {c.row for c in many.train} & {c.row for c in many.reference}
    assert {splits["train"].prompts[c.row].category for c in (*many.train, *many.reference)} == {"b"} and {
        c[1:3] for c in few.test
    } == {(0, 1)}
    other = multi_reference.given(splits, "b", Cfg(3, 5, 3, 1), scarce=True)
    assert {c.row for c in other.train} != {c.row for c in few.train} and other.test == few.test


@pytest.fixture
def spoken(byte_tokenizer):
    """Answers that are plain text, two a prompt, the second one ended."""
    prompts = [data.Prompt(str(i), "all", text, "train") for i, text in enumerate(["Say hi.", "Add 2 and 2."])]
    texts = [["hello", "hi"], ["four", "it is 4"]]
    answers = [
        [byte_tokenizer.encode(a, add_special_tokens=False), [*byte_tokenizer.encode(b, add_special_tokens=False), 257]]
        for a, b in texts
    ]
    return candidates.Candidates(prompts, data.encode(byte_tokenizer, prompts), answers, texts)


def test_a_model_of_another_family_scores_the_same_texts_its_own_way(spoken, tiny_model, byte_tokenizer, tmp_path):
    scores, counts = multi_reference.foreign(
        "tiny-random", spoken, stop_ids=[257], batch=2, dtype=torch.float32, device="cpu"
    )
    want = completion_logprobs(tiny_model, spoken.ids, *zip(*spoken.answers), batch=2)
    assert torch.allclose(scores, want, atol=1e-5) and counts.tolist() == [
        [5, 3],
        [4, 8],
    ]  # the same family: the same numbers
    ids = byte_tokenizer.convert_tokens_to_ids
    tiny_model.save_pretrained(tmp_path)
    byte_tokenizer.add_tokens(
        ["hello", "four"]
    )  # a tokenizer that spells them in one token; ids that the model has never used
    byte_tokenizer.add_tokens([])
    other = tiny_model.resize_token_embeddings(len(byte_tokenizer), mean_resizing=False) and tiny_model
    other.save_pretrained(tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)
    scores, counts = multi_reference.foreign(
        str(tmp_path), spoken, stop_ids=[257], batch=2, dtype=torch.float32, device="cpu"
    )
    assert counts.tolist() == [[1, 3], [1, 8]] and ids("hello") >= 258
    row = [*data.encode(byte_tokenizer, spoken.prompts)[0], ids("hello")]
    by_hand = tiny_model(torch.tensor([row])).logits[0, -2].log_softmax(-1)[row[-1]]
    assert scores[0, 0].item() == pytest.approx(by_hand.item(), abs=1e-4) and torch.allclose(
        scores[:, 1], want[:, 1], atol=0.5
    )

"""References made, kept, and of another family."""

import pytest
import torch

from lib import data
from lib.scoring.likelihood import completion_logprobs
from lib.studies.mrpo import candidates, reference_models
from lib.studies.mrpo.answers import Answers


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
    scores, counts = reference_models.foreign(
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
    scores, counts = reference_models.foreign(
        str(tmp_path), spoken, stop_ids=[257], batch=2, dtype=torch.float32, device="cpu"
    )
    assert counts.tolist() == [[1, 3], [1, 8]] and ids("hello") >= 258
    row = [*data.encode(byte_tokenizer, spoken.prompts)[0], ids("hello")]
    by_hand = tiny_model(torch.tensor([row])).logits[0, -2].log_softmax(-1)[row[-1]]
    assert scores[0, 0].item() == pytest.approx(by_hand.item(), abs=1e-4) and torch.allclose(
        scores[:, 1], want[:, 1], atol=0.5
    )


def test_the_local_reference_learns_to_write_the_better_answers_and_is_made_once(spoken, sandbox, monkeypatch):
    """Rewards say that the second answer to each prompt is the better one: its margin over the first grows by much more
    than the other way round."""
    rewards, how = torch.tensor([[0.0, 1.0], [0.0, 1.0]]), reference_models.Local(steps=40, batch=2, lr=3e-3)
    margin = {}
    for name, r in (("second", rewards), ("first", -rewards)):
        model, tokenizer = reference_models.local(spoken, r, [0, 1], how, stop_ids=[257])
        sums, counts = reference_models.scored(model, tokenizer, spoken, stop_ids=[257], batch=4)
        margin[name] = (sums[:, 1] - sums[:, 0]).mean().item()
    assert margin["second"] > margin["first"] + 10 and not any(p.requires_grad for p in model.parameters())

    class Cfg:
        second_model, tilt_steps, eval_batch = "none", 3, 4

    said = {"train": Answers(spoken, torch.zeros(2, 2), torch.zeros(2, 2, 1))}
    monkeypatch.setattr(candidates.Candidates, "rewards", lambda self, name: rewards)
    monkeypatch.setattr(reference_models, "halves", lambda prompts: ([0], [1]))
    sums, counts = reference_models.other_family(said, "rich", Cfg, stop_ids=[257])
    assert sums.shape == counts.shape == (2, 2) and (sums < 0).all() and (counts > 0).all()
    monkeypatch.setattr(reference_models, "local", lambda *a, **k: 1 / 0)
    again = reference_models.other_family(said, "rich", Cfg, stop_ids=[257])
    assert torch.equal(again[0], sums) and torch.equal(again[1], counts)

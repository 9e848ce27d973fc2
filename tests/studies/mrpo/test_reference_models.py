"""References made, kept, and of another family."""

import pytest
import torch

from lib import data
from lib.scoring.likelihood import completion_logprobs
from lib.studies.mrpo import candidates, reference_models


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

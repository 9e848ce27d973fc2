import pytest
import torch

from lib import data
from lib.engine.logprobs import forward, pack
from lib.harness import paths
from lib.scoring.likelihood import completion_logprobs
from lib.studies.mrpo import answers


@pytest.fixture
def said(sandbox, tiny_model, byte_tokenizer):
    prompts = data.load_prompts(paths.DATA / "prompts.jsonl", "train")[:3]
    ids = data.encode(byte_tokenizer, prompts)
    how = answers.Draws(1.0, each=2, max_new_tokens=6, stop_ids=[257], batch=4)
    return how, answers.sample(tiny_model, byte_tokenizer, prompts, ids, how, seed=0)


def test_answers_are_drawn_once(said, tiny_model, byte_tokenizer, monkeypatch):
    how, a = said
    monkeypatch.setattr(answers, "generate", lambda *x, **k: 1 / 0)
    c = a.candidates
    again = answers.sample(tiny_model, byte_tokenizer, c.prompts, c.ids, how, seed=0)
    assert again.candidates.answers == c.answers and {len(row) for row in c.answers} == {2}
    assert torch.equal(again.states, a.states) and torch.equal(again.log_probs, a.log_probs)


def test_what_sampling_saw_is_what_a_forward_of_the_text_gives(said, tiny_model):
    _, a = said
    c = a.candidates
    want = completion_logprobs(tiny_model, c.ids, *zip(*c.answers), batch=2)
    assert torch.allclose(a.log_probs.float(), want, atol=1e-3)
    answer = c.answers[0][0]
    hidden = forward(tiny_model, pack([(c.ids[0], [answer])]))[0, len(c.ids[0]) : len(c.ids[0]) + len(answer) - 1]
    assert torch.allclose(a.states[0, 0].float(), hidden.mean(0), atol=2e-3)


def test_an_answer_of_one_token_is_seen_by_its_prompts_last_state():
    prompt, one = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0]])
    assert answers._mean(prompt, one).item() == 2.0

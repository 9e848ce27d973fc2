import pytest
import torch

from lib.scoring import likelihood

X, A, B = [[1, 2, 3], [8, 9], [7]], [[4, 5, 257], [10], [6, 5]], [[4, 9], [11, 12, 13], [5, 6]]


def test_completion_logprobs_by_a_plain_forward_in_any_batch(tiny_model):
    got = likelihood.completion_logprobs(tiny_model, X, A, B, batch=3)
    for i in range(3):
        for k, y in enumerate((A[i], B[i])):
            lp = tiny_model(torch.tensor([[*X[i], *y]])).logits[0].log_softmax(-1)
            assert got[i, k].item() == pytest.approx(
                sum(lp[len(X[i]) - 1 + t, v].item() for t, v in enumerate(y)), abs=1e-3
            )
    assert torch.allclose(likelihood.completion_logprobs(tiny_model, X, A, B, batch=1), got, atol=1e-4)
    mean = likelihood.completion_logprobs(tiny_model, X, A, B, batch=2, mean=True)
    assert torch.allclose(mean * torch.tensor([[3, 2], [1, 3], [2, 2]]), got, atol=1e-3)


def test_likelihood_judge(tiny_model):
    judge = likelihood.load_judge("fp", tiny_model, None, batch=2)
    a, b = judge.score(X, A), judge.score(X, B)
    want = ["win" if x > y else "lose" for x, y in zip(a, b)]
    assert likelihood.judge_both_orders(judge, X, A, B, margin=0.0) == want
    assert likelihood.judge_both_orders(judge, X, A, A, margin=0.0) == ["tie"] * 3
    assert likelihood.judge_both_orders(judge, X, A, B, margin=1e9) == ["tie"] * 3


class Fixed:
    def __init__(self, verdicts):
        self.verdicts = iter(verdicts)

    def compare(self, prompts, first, second, *, margin):
        return next(self.verdicts)


def test_both_orders():
    biased = Fixed([["first"] * 2, ["first"] * 2])  # always the first answer: no information
    assert likelihood.judge_both_orders(biased, X[:2], A[:2], B[:2], margin=0) == ["tie", "tie"]
    judge = Fixed([["first", "second", "first"], ["second", "first", "tie"]])
    assert likelihood.judge_both_orders(judge, X, A, B, margin=0) == ["win", "lose", "tie"]


def test_prompted_judge_reads_the_labels(tiny_model, byte_tokenizer):
    judge = likelihood.PromptedJudge(tiny_model, byte_tokenizer, byte_tokenizer.decode, batch=2)
    assert set(judge.compare(X, A, B, margin=0.0)) <= {"first", "second"}
    assert judge.compare(X, A, B, margin=1e9) == ["tie"] * 3
    one = judge.compare(X[:1], A[:1], B[:1], margin=0.0)
    text = judge.question.format(
        prompt=byte_tokenizer.decode(X[0]), first=byte_tokenizer.decode(A[0]), second=byte_tokenizer.decode(B[0])
    )
    ids = byte_tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
    )
    logits = tiny_model(torch.tensor([ids])).logits[0, -1]
    assert one == ["first" if logits[ord("A") - 33] > logits[ord("B") - 33] else "second"] and byte_tokenizer.encode(
        "A"
    ) == [ord("A") - 33]


def test_reference_logprobs_are_computed_once(tiny_model, sandbox, monkeypatch):
    calls, plain = [], likelihood.completion_logprobs
    monkeypatch.setattr(likelihood, "completion_logprobs", lambda *a, **k: calls.append(1) or plain(*a, **k))
    ask = lambda **k: likelihood.reference_logprobs(tiny_model, X, A, B, **({"policy": tiny_model, "batch": 2} | k))  # noqa: E731
    first = ask()
    assert torch.equal(first, plain(tiny_model, X, A, B, batch=2)) and torch.equal(ask(), first) and len(calls) == 1
    with torch.no_grad():
        tiny_model.model.norm.weight[0] += 1
    assert not torch.equal(ask(), first) and len(calls) == 2


def test_a_reference_of_another_vocabulary_is_refused(tiny_model, sandbox):
    import copy

    policy = copy.deepcopy(tiny_model)
    policy.resize_token_embeddings(300)
    with pytest.raises(ValueError, match="the policy's vocabulary has 300 entries and the reference's 258"):
        likelihood.reference_logprobs(tiny_model, X, A, policy=policy, batch=2)


def test_pair_logprobs_are_those_of_each_answer_alone(tiny_model, byte_tokenizer):
    from lib import data

    texts = [("Say it.", "abcd", "abXd"), ("And?", "yes", "yes, sir")]
    pairs = data.encode_pairs(byte_tokenizer, texts, end=257)
    got = likelihood.pair_logprobs(tiny_model, pairs, batch=2)
    for p, row in zip(pairs, got):
        for answer, value in zip((p.chosen, p.rejected), row.tolist()):
            log = tiny_model(input_ids=torch.tensor([p.prompt + answer])).logits[0].log_softmax(-1)
            alone = log[len(p.prompt) - 1 : -1].gather(-1, torch.tensor(answer)[:, None]).sum()
            assert value == pytest.approx(alone.item(), abs=1e-3)

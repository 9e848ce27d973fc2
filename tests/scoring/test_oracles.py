import pytest
import torch

from lib.scoring import oracles


def test_rewards_by_hand():
    assert (
        oracles.plain("a bb ccc") == -2
        and oracles.direct("You and your dog") == 0.5
        and oracles.varied("no no yes") == pytest.approx(2 / 3)
    )
    assert oracles.full("one two") == 0.1 and oracles.score("plain", ["", "a"]).tolist() == [oracles.NOTHING, -1]
    both = oracles.score("plain+varied", ["aa aa", "b c", "", "dddd"])
    assert both[2] == oracles.NOTHING and both[1] > both[0] and both[1] > both[3]
    with pytest.raises(ValueError, match="one of plain, direct"):
        oracles.score("plain+rude", ["x"])


def test_an_oracle_counts_and_logs_every_query():
    first, second = ["a a", "b"], ["a b", "b"]
    o = oracles.Oracle(
        lambda texts: oracles.score("varied", texts),
        labels="deterministic",
        flip=0.0,
        generator=torch.Generator().manual_seed(0),
    )
    assert o.compare(first, second)[0].item() is False and o.queries == 2 and o.compare([], []).tolist() == []
    assert o.log[0][:2] == ("a a", "a b") and o.log[0][2] < 0.5 and o.log[0][3] is False and o.log[1][2] == 0.5
    with pytest.raises(ValueError, match="1 first answers and 2 second"):
        o.compare(["a"], ["b", "c"])


@pytest.mark.parametrize(
    "labels, flip, expected",
    [
        ("deterministic", 0.0, 1.0),
        ("deterministic", 0.2, 0.8),
        ("bernoulli", 0.0, 0.7310586),
        ("bernoulli", 0.2, 0.8 * 0.7310586 + 0.2 * 0.2689414),
    ],
)
def test_oracle_labels_come_at_the_stated_rates(labels, flip, expected):
    o = oracles.Oracle(
        lambda x: torch.tensor(x, dtype=torch.float64),
        labels=labels,
        flip=flip,
        generator=torch.Generator().manual_seed(1),
    )
    rate = o.compare([1.0] * 4000, [0.0] * 4000).double().mean().item()
    assert rate == pytest.approx(expected, abs=0.03)
    ties = o.compare([1.0] * 4000, [1.0] * 4000).double().mean().item()
    assert ties == pytest.approx(0.5, abs=0.03)


def billing():
    """A reward that counts what it was sent, and says nothing of what it costs."""

    def reward(texts):
        reward.sent += len(texts)
        return torch.tensor([float(len(t)) if t else float("nan") for t in texts])

    reward.sent = 0
    return reward


def test_only_a_reward_that_says_it_is_free_is_asked_beside_the_count():
    how = dict(labels="deterministic", flip=0.0, generator=torch.Generator())
    paid, said, own = (
        oracles.Oracle(billing(), **how),
        oracles.Oracle(billing(), free=True, **how),
        oracles.Oracle(oracles.free(billing()), **how),
    )
    assert [o.free for o in (paid, said, own)] == [False, True, True]
    assert paid.peek(["aa", "b"], ["a", "bb"]) is None and paid.reward.sent == 0 and paid.peek([], []) is None
    for o in (said, own):
        assert o.peek(["aa", "b"], ["a", "bb"]).tolist() == [True, False] and o.queries == 0
    assert not oracles.Oracle(oracles.free(billing()), free=False, **how).free
    assert oracles.is_free(oracles.rewarder("plain", dtype=torch.float32, device="cpu", batch=2))


def test_a_paid_call_without_a_label_is_counted_and_a_free_one_is_not():
    how = dict(labels="deterministic", flip=0.0, generator=torch.Generator())
    for free, count, words in ((False, 3, "all of these 2 queries were"), (True, 1, "none of these 2 queries was")):
        o = oracles.Oracle(billing(), free=free, **how)
        o.compare(["aa"], ["a"])
        with pytest.raises(FloatingPointError, match=rf"pairs \[1\] is not finite; {words} counted"):
            o.compare(["a", ""], ["b", "c"])
        assert o.queries == count and len(o.log) == 1 and o.reward.sent == 6
        again = oracles.Oracle(billing(), free=free, **how)
        again.restore(o.state())
        assert again.queries == count

    def broken(texts):
        raise OSError("the server is gone")

    o = oracles.Oracle(broken, **how)
    with pytest.raises(OSError):
        o.compare(["a"], ["b"])
    assert o.queries == 1


def test_bad_oracles():
    for kw, words in (
        ({"labels": "soft", "flip": 0.0}, "deterministic or bernoulli, given 'soft'"),
        ({"labels": "bernoulli", "flip": 0.5}, "0, 0.5"),
    ):
        with pytest.raises(ValueError, match=words):
            oracles.Oracle(len, generator=torch.Generator(), **kw)


def test_a_reward_model_reads_prompt_and_answer_in_its_own_template(tmp_path, byte_tokenizer):
    """A saved tiny classifier: scores equal its logits at each row's last token, whatever the batch."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=len(byte_tokenizer), num_labels=1, pad_token_id=257,
        initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "one")
    byte_tokenizer.save_pretrained(tmp_path / "one")
    rows = [("Say hi.", "hi"), ("Say hi.", "a longer answer"), ("Add two and two, please.", "4")]
    got = oracles.rewarder(str(tmp_path / "one"), dtype=torch.float32, device="cpu", batch=2)(rows)
    for (p, a), value in zip(rows, got.tolist()):
        ids = byte_tokenizer.apply_chat_template(
            [{"role": "user", "content": p}, {"role": "assistant", "content": a}], return_dict=False
        )
        with torch.inference_mode():
            want = model.score(model.model(torch.tensor([ids])).last_hidden_state)[0, -1, 0]
        assert value == pytest.approx(want.item(), abs=1e-4)
    assert (
        len(set(got.tolist())) == 3
        and oracles.rewarder("plain", dtype=torch.float32, device="cpu", batch=2)(rows).tolist()
        == oracles.score("plain", [a for _, a in rows]).tolist()
    )
    config.num_labels = 2
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "two")
    byte_tokenizer.save_pretrained(tmp_path / "two")
    with pytest.raises(ValueError, match="has one output, .* has 2"):
        oracles.rewarder(str(tmp_path / "two"), dtype=torch.float32, device="cpu", batch=2)
    with pytest.raises(FileNotFoundError, match="no model folder at"):
        oracles.rewarder(str(tmp_path / "none"), dtype=torch.float32, device="cpu", batch=2)
    byte_tokenizer.chat_template = None
    byte_tokenizer.save_pretrained(tmp_path / "one")
    (tmp_path / "one" / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="no chat template: give one as template, one of vicuna, llama-2"):
        oracles.rewarder(str(tmp_path / "one"), dtype=torch.float32, device="cpu", batch=2)
    same = oracles.rewarder(str(tmp_path / "one"), dtype=torch.float32, device="cpu", batch=2, template="chatml")
    torch.testing.assert_close(same(rows), got)


def test_a_tie_is_no_matter_of_rounding():
    """Equal answers tie though two batches score them apart; so do rewards that differ by how a sum was rounded."""
    calls = []
    noisy = lambda rows: calls.append(1) or torch.full((len(rows),), 1.0 + 0.03 * len(calls)).double()  # noqa: E731
    ask = oracles.Oracle(noisy, labels="deterministic", flip=0.0, generator=torch.Generator().manual_seed(0), free=True)
    got = ask.compare([("q", "same")] * 400, [("q", "same")] * 400)
    assert 0.4 < got.float().mean() < 0.6 and {p for *_, p, _ in ask.log} == {0.5}
    sums = {"a": (0.1 + 0.2) + 0.3, "b": 0.1 + (0.2 + 0.3), "c": 0.61}
    assert sums["a"] != sums["b"]
    ask.reward = lambda rows: torch.tensor([sums[answer] for _, answer in rows], dtype=torch.float64)
    got = ask.compare([("q", "a")] * 400, [("q", "b")] * 400)
    assert 0.4 < got.float().mean() < 0.6, "a coin"
    assert not ask.compare([("q", "a")] * 50, [("q", "c")] * 50).any()
    assert oracles.wins(*(torch.tensor([sums[x] for x in row]).double() for row in ("aac", "bca"))).tolist() == [
        0.5,
        0,
        1,
    ]


def test_rules_that_count_words_by_hand():
    text = "good good words say the good things"  # 7 words, 5 different; of four letters and more good, words, things
    assert oracles.full(text) == 7 / 20 and oracles.rich(text) == 5 / 20 and oracles.content(text) == 3 / 20
    assert oracles.rich("good " * 20) == 1 / 20 < oracles.full("good " * 20)  # repetition pleases only the latter
    assert oracles.rich("") == oracles.content("...") == oracles.NOTHING

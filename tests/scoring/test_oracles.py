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

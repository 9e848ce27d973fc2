import math

import pytest
import torch

from lib import data
from lib.harness import paths
from lib.scoring import metrics


def test_margins_by_hand():
    z = torch.tensor([[math.log(0.7), math.log(0.2), math.log(0.1)]], dtype=torch.float64)
    prob, logit = metrics.margins(z + 5)  # a constant on the logits changes neither
    assert prob.item() == pytest.approx(0.5, abs=1e-12)
    assert logit.item() == pytest.approx(math.log(3.5), abs=1e-12)


def test_kl_and_js():
    p, q = (torch.tensor([x], dtype=torch.float64).log() for x in ([0.75, 0.25], [0.5, 0.5]))
    assert metrics.kl(p, q).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-12)
    assert metrics.kl(p, p).item() == 0 and metrics.kl(p, q) != metrics.kl(q, p)
    m = torch.tensor([[0.625, 0.375]], dtype=torch.float64).log()
    want = (metrics.kl(p, m) + metrics.kl(q, m)).item() / 2
    assert metrics.js_divergence(p, q).item() == pytest.approx(want, abs=1e-12) == metrics.js_divergence(q, p).item()
    far = torch.tensor([[200.0, 0.0], [0.0, 200.0]], dtype=torch.float64)
    assert metrics.js_divergence(far[:1], far[1:]).item() == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("a, b, prefix, divergence", [
    ([1, 2, 3], [1, 2, 3], 3, None), ([1, 2, 3], [1, 9, 3], 1, 1), ([1, 2], [1, 2, 3], 2, 2), ([4], [5], 0, 0),
    ([], [], 0, None),
])  # fmt: skip
def test_prefix_and_divergence(a, b, prefix, divergence):
    assert data.agreement_prefix(a, b) == data.agreement_prefix(b, a) == prefix
    assert data.first_divergence(a, b) == data.first_divergence(b, a) == divergence
    assert metrics.exact_match(a, b) == (divergence is None)


def test_deciles_order_by_margin():
    margin = torch.linspace(1, 0, 100)
    flip = margin < 0.095  # the smallest tenth flips
    bins = metrics.flip_by_margin_decile(margin, flip)
    assert [b["n"] for b in bins] == [10] * 10 and [b["rate"] for b in bins] == [1.0] + [0.0] * 9
    assert bins[0]["low"] == 0 and bins[-1]["high"] == 1


def test_text_measures_by_hand():
    assert metrics.rouge_l("the cat sat", "the cat sat") == 1
    # common subsequence "the cat": precision 2/3, recall 2/4
    assert metrics.rouge_l("the cat sat", "the black cat ran") == pytest.approx(
        2 * (2 / 3) * 0.5 / (2 / 3 + 0.5), abs=1e-12
    )
    assert metrics.distinct_n([[1, 2, 1, 2]], 2) == pytest.approx(2 / 3)
    assert metrics.distinct_n([[1]], 2) == 1.0


def test_rouge_l_of_any_script():
    for a, b in [
        ("Столица Франции — Париж", "столица Франции: Париж."),
        ("法国的首都是巴黎", "法国的首都是巴黎。"),
        ("عاصمة فرنسا باريس", "عاصمة فرنسا: باريس."),
        ("Où est la rivière", "où est la RIVIE\u0300RE ?"),
    ]:
        assert metrics.rouge_l(a, b) == 1, (a, b)
    assert metrics.rouge_l("法国的首都", "英国的首都") == pytest.approx(4 / 5)
    assert metrics.rouge_l("река течёт здесь", "билет стоит дорого") == 0 == metrics.rouge_l("?", "!")


def test_rouge_l_of_english_is_the_packages():
    from rouge_score.rouge_scorer import RougeScorer

    package = RougeScorer(["rougeL"], use_stemmer=False)
    texts = [p.text for p in data.load_prompts(paths.DATA / "prompts.jsonl", "test")][:20] + ["Don't do_it, it's 3.5!"]
    for a in texts:
        for b in texts:
            assert a == b or metrics.rouge_l(a, b) == package.score(b, a)["rougeL"].fmeasure


def test_fastchat_rule():
    assert metrics.fastchat_verdict("win", "win") == "win" and metrics.fastchat_verdict("lose", "lose") == "lose"
    assert {
        metrics.fastchat_verdict(*x) for x in [("win", "lose"), ("tie", "win"), ("lose", "tie"), ("tie", "tie")]
    } == {"tie"}
    with pytest.raises(ValueError, match="win, tie or lose"):
        metrics.fastchat_verdict("won", "win")
    assert metrics.win_rates(["win", "win", "tie", "lose"]) == {
        "win": 0.5,
        "tie": 0.25,
        "lose": 0.25,
        "win_adjusted": 0.625,
    }


def test_divergences_of_forbidden_tokens_by_hand():
    p = torch.tensor([[0.0, 0.0, -torch.inf]], dtype=torch.float64)
    q = torch.zeros(1, 3, dtype=torch.float64)
    assert metrics.kl(p, q).item() == pytest.approx(math.log(1.5)) and metrics.kl(q, p).item() == math.inf
    m = [5 / 12, 5 / 12, 1 / 6]
    want = (sum(0.5 * math.log(0.5 / x) for x in m[:2]) + sum(math.log(1 / 3 / x) / 3 for x in m)) / 2
    assert metrics.js_divergence(p, q).item() == pytest.approx(want) == metrics.js_divergence(q, p).item()

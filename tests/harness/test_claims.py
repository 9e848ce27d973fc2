"""Verdicts on pools whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from lib.harness import claims


class Record:
    def __init__(self, seed=0, preset="small"):
        self.manifest = {"paper": "qdpo", "preset": preset, "seed": seed}
        self.rows, self.numbers = [], []

    def add(self, dataset, arm, metric, values, weight=np.nan):
        self.rows += [(dataset, arm, metric, f"p{i}", v, weight) for i, v in enumerate(values)]
        return self

    def items(self):
        return pd.DataFrame(self.rows, columns=["dataset", "arm", "metric", "prompt_id", "value", "weight"])

    def metrics(self):
        return pd.DataFrame(self.numbers, columns=["arm", "metric", "value"])


def noise(n=60, seed=0):
    return np.random.default_rng(seed).normal(size=n) * 0.02


def pool(fill, seeds=(0, 1, 2), **kw):
    out = []
    for s in seeds:
        r = Record(s, **kw)
        fill(r, noise(seed=s))
        out.append(r)
    return out


def verdict(runs, claim):
    t = claims.card("qdpo", runs).set_index("claim")
    return t.loc[claim]


@pytest.mark.parametrize(
    "metric, higher",
    [("flips", False), ("kl", False), ("agreement prefix", True), ("rouge-l", True), ("fp likelihood", True)],
)
def test_better_means_positive_on_every_metric(metric, higher):
    gain = 0.1 if higher else -0.1

    def fill(r, e):
        r.add("test prompts", "qdpo", metric, 0.5 + gain + e, 48.0).add("test prompts", "kd", metric, 0.5 - e, 48.0)

    row = verdict(pool(fill), f"C5 {metric}")
    assert (
        row.verdict == "holds"
        and row.ours == pytest.approx(0.1, abs=0.02)
        and row.low > 0
        and row.seeds == 3
        and row.n == 60
    )


def test_worse_fails_and_even_is_not_resolved():
    worse = pool(
        lambda r, e: r.add("test prompts", "qdpo", "flips", 0.3 + e).add("test prompts", "kd", "flips", 0.2 - e)
    )
    assert verdict(worse, "C5 flips").verdict == "fails"
    even = pool(
        lambda r, e: r.add("test prompts", "qdpo", "flips", 0.2 + e).add("test prompts", "kd", "flips", 0.2 + e[::-1])
    )
    assert verdict(even, "C5 flips").verdict == "not resolved"


def test_one_seed_resolves_nothing_and_smoke_is_no_evidence():
    fill = lambda r, e: r.add("test prompts", "qdpo", "kl", 0.1 + e).add("test prompts", "rtn", "kl", 0.5 - e)  # noqa: E731
    assert verdict(pool(fill), "C4 rtn kl").verdict == "holds"
    assert verdict(pool(fill, seeds=(0, 1)), "C4 rtn kl").verdict == "not resolved"
    assert verdict(pool(fill, preset="smoke"), "C4 rtn kl").verdict == "smoke"
    assert verdict(pool(fill), "C4 awq kl").verdict == "not run"
    assert set(claims.card("qdpo", []).verdict) == {"not run"}


def test_a_claim_holds_only_if_every_seed_agrees():
    gain = {0: 0.2, 1: 0.2, 2: -0.02}
    runs = []
    for seed, g in gain.items():
        e = noise(seed=seed) / 20
        runs.append(
            Record(seed)
            .add("test prompts", "qdpo", "rouge-l", 0.5 + g + e)
            .add("test prompts", "kd", "rouge-l", 0.5 - e)
        )
    row = verdict(runs, "C5 rouge-l")
    assert row.low > 0 and row.verdict == "direction holds"
    assert claims.Pool(runs).by_seed("test prompts", "rouge-l", "qdpo", "kd") == pytest.approx(
        list(gain.values()), abs=0.005
    )


def test_a_loss_needs_no_more_evidence_than_a_gain():
    """A difference that only the uncorrected interval tells from 0: direction holds one way, fails the other."""
    x = np.random.default_rng(3).normal(size=60)
    x = 0.1 * (x - x.mean()) / x.std() * 60**0.5 / 2.3  # mean 0, standard error 0.1 / 2.3
    for sign, want in ((1, "direction holds"), (-1, "fails")):
        runs = [
            Record(s)
            .add("test prompts", "qdpo", "rouge-l", sign * (x + 0.1))
            .add("test prompts", "kd", "rouge-l", 0 * x)
            for s in range(3)
        ]
        row = verdict(runs, "C5 rouge-l")
        assert row.low < 0 < row.high and row.verdict == want


def test_seeds_are_those_that_have_the_arm_and_untrained_claims_need_one():
    runs = pool(lambda r, e: r.add("test prompts", "rtn", "kl", 0.5 - e))
    runs[0].add("test prompts", "qdpo", "kl", 0.1 + noise())
    row = verdict(runs, "C4 rtn kl")
    assert row.seeds == 1 and row.verdict == "not resolved"
    one = [
        Record(0)
        .add("common knowledge", "fp", "accuracy", np.ones(60))
        .add("common knowledge", "rtn", "accuracy", np.ones(60))
        .add("test prompts", "rtn", "flips", 0.2 + noise())
    ]
    assert verdict(one, "C1a").verdict == "holds" and verdict(one, "C1a").seeds == 1


def test_a_broken_rule_is_no_missing_arm(monkeypatch):
    monkeypatch.setattr(claims.qdpo, "CLAIMS", [claims.qdpo.Claim("X", "x", lambda pool: {}["typo"])])
    with pytest.raises(KeyError):
        claims.card("qdpo", [Record(0)])


def test_exact_is_all():
    def fill(right):
        return pool(
            lambda r, e: r.add(
                "pairs, cut at the first divergence", "label", "delta", [1.0] * right + [0.0] * (60 - right)
            )
        )  # noqa: E731

    assert [verdict(fill(n), "C3d").verdict for n in (60, 59, 40)] == ["holds", "direction holds", "fails"]


def test_net_wins_against_full_precision():
    def fill(r, e):
        zero = np.zeros(60)
        for arm, wins in (("qdpo", 30), ("rtn", 0)):
            win = zero.copy()
            win[:wins] = 1
            r.add("judge vs fp", arm, "win", win).add("judge vs fp", arm, "lose", 1 - win)

    row = verdict(pool(fill), "C4 rtn judge")
    assert row.verdict == "holds" and row.ours == pytest.approx(1.0)


def test_accuracy_hides_flips():
    def fill(r, drop, flips=0.2):
        right = np.ones(60)
        wrong = right.copy()
        wrong[:drop] = 0
        r.add("common knowledge", "fp", "accuracy", right).add("common knowledge", "rtn", "accuracy", wrong)
        r.add("test prompts", "rtn", "flips", flips + noise(), 48.0)

    assert verdict(pool(lambda r, e: fill(r, 0)), "C1a").verdict == "holds"
    assert verdict(pool(lambda r, e: fill(r, 20)), "C1a").verdict == "fails"
    assert verdict(pool(lambda r, e: fill(r, 0, flips=0.0)), "C1a").verdict == "fails"


@pytest.mark.parametrize("side", ["fp", "rtn"])
def test_an_accuracy_interval_wider_than_5_points_on_either_side_is_not_resolved(side):
    """A few of 60 right on one side only: 0 lies in the interval, and so does a difference of more than 5 points."""

    def fill(r, e):
        right, some = np.ones(60), np.ones(60)
        some[:2] = 0
        for arm in ("fp", "rtn"):
            r.add("common knowledge", arm, "accuracy", some if arm == side else right)
        r.add("test prompts", "rtn", "flips", 0.2 + noise(), 48.0)

    row = verdict(pool(fill), "C1a")
    assert row.low <= 0 <= row.high and max(-row.low, row.high) > 0.05
    assert row.verdict == "not resolved"


@pytest.mark.parametrize("only, cache, a, b", [(0.3, 0.9, "holds", "holds"), (0.9, 0.3, "fails", "fails")])
def test_breakdown_shares(only, cache, a, b):
    def fill(r, e):
        for arm, v in (("flip only", only), ("perturbed KV only", cache), ("full quantized decoding", 0.2)):
            r.add("first divergence", arm, "agreement", v + e)

    runs = pool(fill)
    assert verdict(runs, "C2a").verdict == a and verdict(runs, "C2b").verdict == b
    assert verdict(runs, "C2a").ours == pytest.approx((1 - only) / 0.8, abs=0.02)


def test_margins_need_the_order_too():
    def fill(r, e, rates):
        r.add("test prompts", "rtn", "margin where flipped", 0.1 + e, 5.0).add(
            "test prompts", "rtn", "margin where kept", 0.5 - e, 40.0
        )
        r.numbers += [("rtn", f"flip rate, margin decile {k}", v) for k, v in enumerate(rates, 1)]

    assert verdict(pool(lambda r, e: fill(r, e, np.linspace(0.6, 0.0, 10))), "C1b").verdict == "holds"
    assert verdict(pool(lambda r, e: fill(r, e, np.ones(10))), "C1b").verdict == "direction holds"


def test_labels_and_tax():
    def fill(r, e):
        r.add("pairs, whole answers", "label", "full-precision bracket", [1.0] * 42 + [0.0] * 18)
        r.add("pairs, cut at the first divergence", "label", "delta", np.ones(60))
        r.add("common knowledge", "qdpo", "accuracy", [1.0] * 50 + [0.0] * 10).add(
            "common knowledge", "rtn", "accuracy", np.ones(60)
        )

    runs = pool(fill)
    assert (
        verdict(runs, "C3a").verdict == "fails"
        and verdict(runs, "C3d").verdict == "holds"
        and verdict(runs, "C6").verdict == "fails"
    )


def test_intervals_resample_prompts_not_rows():
    """Three identical seeds are not three times the evidence."""
    one = [Record(0).add("test prompts", "rtn", "flips", noise() + 0.2)]
    three = [Record(s).add("test prompts", "rtn", "flips", noise() + 0.2) for s in range(3)]
    a, b = (claims.Pool(r).rate("test prompts", "rtn", "flips") for r in (one, three))
    assert (a.high - a.low) == pytest.approx(b.high - b.low) and a.n == b.n == 60


def test_sentence_names_failures():
    worse = pool(
        lambda r, e: r.add("test prompts", "qdpo", "flips", 0.3 + e).add("test prompts", "kd", "flips", 0.2 - e)
    )
    assert "Fails: C5 flips." in claims.sentence("qdpo", worse)


def mrpo(rows):
    """verdicts by claim on pools of three seeds: rows of (dataset, arm, accuracy, noise)."""
    runs = []
    for seed in range(3):
        r = Record(seed)
        r.manifest["paper"] = "mrpo"
        for dataset, arm, value in rows:
            r.add(f"held-out {dataset}", arm, claims.mrpo.ACCURACY, value + noise(seed=seed) / 10, 3.0)
        runs.append(r)
    return claims.card("mrpo", runs).set_index("claim").verdict


def test_mrpo_claims_and_critics():
    v = mrpo(
        [
            ("plain", "mrpo", 0.7),
            ("plain", "dpo", 0.6),
            ("plain", "multi-dpo", 0.75),
            ("plain", "single", 0.695),
            ("plain", "mrpo-unclipped", 0.7),
            ("plain", "geometric", 0.71),
        ]
    )
    assert (
        v["M1 plain"] == "holds"
        and v["M2 plain"] == "fails"
        and v["K1 plain"] == "holds"
        and v["K2 plain"] == "holds"
        and v["M1 direct"] == "not run"
    )
    v = mrpo(
        [
            ("plain+varied", "mrpo", 0.6),
            ("plain+varied", "dpo", 0.7),
            ("plain", "mrpo", 0.6),
            ("plain", "mrpo-uniform", 0.6),
            ("plain", "single", 0.5),
        ]
    )
    assert v["M3"] == "fails" and v["M5 plain"] == "holds" and v["K1 plain"] == "fails"
    v = mrpo(
        [
            ("plain", "dpo", 0.7),
            ("plain", "mrpo, mis-scored", 0.6),
            ("plain", "mrpo-vaw, mis-scored", 0.65),
            ("plain", "geometric", 0.5),
            ("plain", "mrpo-unclipped", 0.6),
        ]
    )
    assert v["K3 plain"] == "holds" and v["K4 plain"] == "holds" and v["K2 plain"] == "fails"
    v = mrpo([("plain", "mrpo, other way", 0.6), ("plain", "dpo, other way", 0.7)])
    assert v["M6 plain"] == "fails" and v["M6 direct"] == "not run"


@pytest.mark.parametrize("weight, verdict", [(0.6, "holds"), (0.4, "fails"), (0.5, "not resolved")])
def test_mrpo_weight_of_a_mis_scored_reference(weight, verdict):
    runs = [Record(s).add("weights plain", "mis-scored", "arwc", weight + noise(seed=s)) for s in range(3)]
    assert claims.card("mrpo", runs).set_index("claim").verdict["K5 plain"] == verdict


def test_mrpo_price_in_knowledge():
    for drop, verdict in ((0.0, "holds"), (0.1, "fails")):
        runs = [
            Record(s)
            .add("questions", "base", "accuracy", 0.5 + noise(seed=s))
            .add("questions", "mrpo", "accuracy", 0.5 - drop + noise(seed=s + 9))
            for s in range(3)
        ]
        assert claims.card("mrpo", runs).set_index("claim").verdict["M8"] == verdict


def test_mrpo_answers_win_prompt_by_prompt():
    """One absurd reward must not decide: the arm that is better on 40 of 60 prompts wins by a third, whatever the
    values."""
    runs = []
    for s in range(3):
        r, values = Record(s), np.where(np.arange(60) < 40, 1.0, 0.0)
        r.add("samples plain", "mrpo", "true reward", values - 1000.0 * (np.arange(60) == 59)).add(
            "samples plain", "dpo", "true reward", 1 - values
        )
        runs.append(r)
    row = claims.card("mrpo", runs).set_index("claim").loc["M7 plain"]
    assert row.ours == pytest.approx(20 / 60) and row.verdict == "holds"
    ties = [
        Record(s)
        .add("samples plain", "mrpo", "true reward", noise())
        .add("samples plain", "dpo", "true reward", noise())
        for s in range(3)
    ]
    assert claims.card("mrpo", ties).set_index("claim").loc["M7 plain"].ours == 0


def lab(rows):
    """Verdicts by claim on pools of three seeds: rows of (dataset, arm, metric, mean)."""
    runs = []
    for seed in range(3):
        r = Record(seed)
        for k, (dataset, arm, metric, value) in enumerate(rows):
            r.add(dataset, arm, metric, value + noise(seed=10 * seed + k) / 10, 1.0)
        runs.append(r)
    return claims.card("lab", runs).set_index("claim").verdict


@pytest.mark.parametrize(
    ("claim", "rows", "verdicts"),
    [
        ("A7", lambda x: [(claims.lab.MODEL, "quota", "effective leaves", 3 + x),
            (claims.lab.MODEL, "pool", "effective leaves", 3.0)], ("holds", "fails")),
        ("B4", lambda x: [("faithfulness", "likelihood", "wrong rejected", 0.8 + x / 2)], ("holds", "fails")),
        ("B5", lambda x: [("faithfulness", "likelihood", "recall", 0.9 + x / 2)], ("holds", "fails")),
        ("C1", lambda x: [("forgetting", "replay-all", "forgotten", 0.3 - x),
            ("forgetting", "phased", "forgotten", 0.3)], ("holds", "fails")),
        ("C2", lambda x: [("exam skills", "replay-all", "accuracy", 0.5 + x),
            ("exam skills", "phased", "accuracy", 0.5)], ("holds", "fails")),
        ("C9", lambda x: [("text general", "replay-all", "surprise", 4 - x),
            ("text general", "start", "surprise", 4.0)], ("holds", "fails")),
        ("K1", lambda x: [("exam", "stacked", "accuracy", 0.5 + x), ("exam", "replay-all", "accuracy", 0.5)],
            ("holds", "fails")),
        ("A11", lambda x: [("students second round", "by failures", "accuracy", 0.5 + x),
            ("students second round", "even turns", "accuracy", 0.5)], ("holds", "fails")),
        ("C11", lambda x: [("text general", "replay-all, early", "surprise", 4 - x),
            ("text general", "replay-all", "surprise", 4.0)], ("holds", "fails")),
        ("C12", lambda x: [("exam skills", "replay-all, early", "accuracy", 0.5 + x),
            ("exam skills", "replay-all", "accuracy", 0.5)], ("holds", "fails")),
        ("K4", lambda x: [("exam skills", "replay-all, best own", "accuracy", 0.5 + x),
            ("exam skills", "replay-all, best general", "accuracy", 0.5)], ("holds", "fails")),
        ("C5", lambda x: [("exam", "stacked", "accuracy", 0.5 - x), ("exam", "replay-all", "accuracy", 0.5)],
            ("holds", "fails")),
    ],
)  # fmt: skip
def test_lab_claims_have_their_sides_right(claim, rows, verdicts):
    assert (lab(rows(0.1))[claim], lab(rows(-0.1))[claim]) == verdicts and lab([("exam", "x", "accuracy", 0.5)])[
        claim
    ] == "not run"


def test_groups_of_an_exam_weigh_the_same():
    """Ten right questions of one group do not outweigh one wrong question of another."""
    runs = []
    for s in range(3):
        r = Record(s)
        for arm, one in (("replay-all", 1.0), ("stacked", 0.0)):
            r.rows += [("exam", arm, "accuracy", f"many {i}", 1 - one, 0.1) for i in range(10)] + [
                ("exam", arm, "accuracy", "single", one, 1.0)
            ]
        runs.append(r)
    assert claims.card("lab", runs).set_index("claim").loc["C5"].ours == pytest.approx(0)

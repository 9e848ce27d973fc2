import numpy as np
import pytest
import scipy.stats

from lib import stats


def rng(seed=0):
    return np.random.default_rng(seed)


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.9, 0.8]).tolist() == [1, 1]


# ------------------------------------------------------------------------------------------------ seeds and prompts

HAND = np.array([[1.0, 2, 3], [3, 4, 8]])  # 2 seeds x 3 prompts: MS_seed 13.5, MS_prompt 6.5, MS_rest 1.5


def columns(y, den=None):
    """(num, den, prompts, seeds) of a complete (S, P) table."""
    den = np.ones(y.shape) if den is None else np.broadcast_to(den, y.shape)
    seeds, prompts = np.indices(y.shape)
    return (y * den).ravel(), den.ravel(), prompts.ravel(), seeds.ravel()


def crossed_normal(g, shape, seed, prompt, rest):
    """Standard deviations of the parts; shape (..., S, P)."""
    parts = ((*shape[:-1], 1), seed), ((*shape[:-2], 1, shape[-1]), prompt), (shape, rest)
    return sum(sd * g.normal(size=size) for size, sd in parts)


def test_crossed_by_hand():
    e = stats.crossed(*columns(HAND))
    assert (e.value, e.n, e.seeds, e.dfs) == (3.5, 3, 2, (1, 2))
    assert e.variances == pytest.approx((13.5 / 6, 5 / 6), rel=1e-12)
    assert e.se == pytest.approx((18.5 / 6) ** 0.5, rel=1e-12)
    half = (12.706204736174694**2 * 13.5 / 6 + 4.302652729749462**2 * 5 / 6) ** 0.5  # t of 1 and of 2 degrees
    assert e.interval() == pytest.approx((3.5, 3.5 - half, 3.5 + half, 3), rel=1e-9)
    assert stats.components(stats.rates(*columns(HAND))) == pytest.approx((4, 2.5, 1.5), rel=1e-12)


def test_variance_never_falls_below_a_one_way_variance():
    e = stats.crossed(*columns(np.array([[1.0, 2, 3], [3, 1, 2]])))  # MS_seed 0, MS_prompt 0.5, MS_rest 1.5
    assert e.variances == pytest.approx((0, 0.5 / 6), abs=1e-15)
    assert stats.components(stats.rates(*columns(np.array([[1.0, 2, 3], [3, 1, 2]])))) == pytest.approx((0, 0, 1.5))
    e = stats.crossed(*columns(np.array([[1.0, 3, 2], [6, 5, 7]])))  # MS_prompt 0.5, MS_rest 1.5
    assert e.variances == pytest.approx((24 / 6, 0), rel=1e-12, abs=1e-15)


def test_rate_and_difference_by_loops():
    g = rng(1)
    S, P = 4, 7
    num_a, num_b = g.poisson(3, (S, P)), g.poisson(4, (S, P))
    den_a, den_b = g.integers(5, 30, (S, P)), g.integers(5, 30, (S, P))
    z = np.zeros((S, P))
    value = 0.0
    for sign, num, den in ((1, num_a, den_a), (-1, num_b, den_b)):
        R = sum(num.ravel()) / sum(den.ravel())
        value += sign * R
        for s in range(S):
            for p in range(P):
                z[s, p] += sign * (num[s, p] - R * den[s, p]) / (sum(den.ravel()) / (S * P))
    ms_seed = P * sum((z[s].sum() / P) ** 2 for s in range(S)) / (S - 1)
    ms_prompt = S * sum((z[:, p].sum() / S) ** 2 for p in range(P)) / (P - 1)
    rest = [z[s, p] - z[s].mean() - z[:, p].mean() for s in range(S) for p in range(P)]
    ms_rest = sum(r**2 for r in rest) / ((S - 1) * (P - 1))
    _, _, prompts, seeds = columns(z)
    e = stats.crossed_difference(*(x.ravel() for x in (num_a, den_a, num_b, den_b)), prompts, seeds)
    assert e.value == pytest.approx(value, rel=1e-12) and e.dfs == (S - 1, P - 1)
    by_seed = ms_seed / (S * P)
    added = max(ms_prompt / (S * P) - min(by_seed, ms_rest / (S * P)), 0)
    assert e.variances == pytest.approx((by_seed, added), rel=1e-10)


def test_table_with_gaps_by_matrices():
    """Henderson's first method: E[z' Q z] = sum_k trace(Q Z_k Z_k') v_k for three forms Q; the mean's variance."""
    g = rng(2)
    there = g.random((4, 30)) < 0.7
    there[0, :9], there[1, 9:] = True, True
    y = crossed_normal(g, there.shape, 1, 1, 1)[there]
    seeds, prompts = np.nonzero(there)
    n = len(y)
    by_seed, by_prompt, cells = np.eye(4)[seeds], np.eye(30)[prompts], np.eye(n)
    forms = [x @ np.linalg.inv(x.T @ x) @ x.T - np.full((n, n), 1 / n) for x in (by_seed, by_prompt, cells)]
    expected = [[np.trace(q @ x @ x.T) for x in (by_seed, by_prompt, cells)] for q in forms]
    seed, prompt, rest = np.linalg.solve(expected, [y @ q @ y for q in forms])
    assert min(seed, prompt, rest) > 0
    assert stats.components(stats.rates(y, np.ones(n), prompts, seeds)) == pytest.approx((seed, prompt, rest), rel=1e-9)
    e = stats.crossed(y, np.ones(n), prompts, seeds)
    variance = np.ones(n) @ (seed * by_seed @ by_seed.T + prompt * by_prompt @ by_prompt.T + rest * cells) @ np.ones(n)
    assert e.value == pytest.approx(y.mean()) and e.se**2 == pytest.approx(variance / n**2, rel=1e-9)
    assert e.dfs[0] + 1 == pytest.approx(n**2 / (by_seed.sum(0) ** 2).sum()) and e.dfs[0] < 3
    assert (e.n, e.seeds) == (30, 4)


@pytest.mark.parametrize("sd", [0, 0.2, 0.6])
def test_a_table_with_gaps_covers(sd):
    g = rng(13)
    there = g.random((4, 60)) < 0.6
    there[0, :30], there[1, 30:] = True, True
    y = crossed_normal(g, (2000, 4, 60), sd, 1, 1) * there
    i = stats.estimate(stats.linearise(there, (y, np.broadcast_to(there * 1.0, y.shape)))).interval()
    assert np.mean((i.low <= 0) & (0 <= i.high)) > 0.935


def test_every_prompt_under_one_seed_is_the_t_interval_of_the_seeds():
    y = rng(3).normal(size=(4, 6)) + np.arange(4)[:, None]
    seeds = np.indices(y.shape)[0].ravel()
    e = stats.crossed(y.ravel(), np.ones(24), np.arange(24), seeds)
    low, high = scipy.stats.t.interval(0.95, 3, y.mean(), y.mean(1).std(ddof=1) / 2)
    assert e.interval() == pytest.approx((y.mean(), low, high, 24), rel=1e-9) and e.seeds == 4
    c = stats.components(stats.rates(y.ravel(), np.ones(24), np.arange(24), seeds))
    within = y.var(1, ddof=1).mean()
    assert c == pytest.approx((y.mean(1).var(ddof=1) - within / 6, 0, within))


def test_one_seed_and_worlds_are_t_intervals_of_the_units():
    y = rng(4).normal(size=30) + 0.3
    for e, seeds in (
        (stats.crossed(y, np.ones(30), range(30), np.zeros(30)), 1),
        (stats.one_way(y, np.ones(30), range(30)), 0),
        (stats.one_way_difference(y + 1, np.ones(30), np.ones(30), np.ones(30), range(30)), 0),
        (stats.one_way(np.repeat(y, 4), np.ones(120), np.repeat(np.arange(30), 4)), 0),
    ):
        ours, test = e.interval(), scipy.stats.ttest_1samp(y, 0)
        assert ours == pytest.approx((y.mean(), *test.confidence_interval(), 30), rel=1e-9)
        assert e.p == pytest.approx(test.pvalue, rel=1e-9) and e.seeds == seeds


def test_anova_of_statsmodels():
    """Independent mean squares, and REML with crossed random effects: the ANOVA estimates on a complete table."""
    import pandas as pd
    import statsmodels.api as sm
    import statsmodels.formula.api as smf

    y = crossed_normal(rng(5), (4, 12), 1, 1, 0.7)
    num, _, prompts, seeds = columns(y)
    data = pd.DataFrame({"y": num, "prompt": prompts, "seed": seeds, "all": 1})
    squares = sm.stats.anova_lm(smf.ols("y ~ C(seed) + C(prompt)", data).fit()).mean_sq
    e = stats.crossed(*columns(y))
    expected = squares["C(seed)"] / 48, (squares["C(prompt)"] - squares["Residual"]) / 48
    assert e.variances == pytest.approx(expected, rel=1e-10)
    parts = {"seed": "0 + C(seed)", "prompt": "0 + C(prompt)"}
    reml = smf.mixedlm("y ~ 1", data, groups="all", vc_formula=parts, re_formula="0").fit()
    found = dict(zip(reml.model.exog_vc.names, reml.vcomp)) | {"rest": reml.scale}
    c = stats.components(stats.rates(*columns(y)))
    assert [found["seed"], found["prompt"], found["rest"]] == pytest.approx(list(c), rel=1e-3)
    assert reml.bse["Intercept"] == pytest.approx(e.se, rel=1e-3)


def test_p_is_where_the_interval_ends_at_0():
    g = rng(6)
    for scale in (0.01, 1, 30):
        e = stats.crossed(*columns(scale + crossed_normal(g, (3, 40), 1, 2, 1)))
        i = e.interval(1 - e.p)
        assert 0 < e.p < 1 and min(abs(i.low), abs(i.high)) < 1e-9 * (i.high - i.low)
        assert e._replace(value=-e.value).p == e.p
    assert stats.Estimate(0.0, (1.0,), (3,), 9, 1).p == 1
    assert stats.Estimate(4.0, (4.0, 0.0), (7, 50), 9, 1).p == pytest.approx(2 * scipy.stats.t.sf(2, 7), rel=1e-9)


def test_row_order_does_not_matter_and_rows_of_one_cell_are_summed():
    g = rng(7)
    y = crossed_normal(g, (3, 20), 1, 1, 1)
    num, den, prompts, seeds = columns(y, g.integers(1, 9, (3, 20)))
    names = np.array([f"prompt {p}" for p in prompts])
    there = g.random(60) < 0.9
    num, den, names, seeds = num[there], den[there], names[there], seeds[there]
    e, order = stats.crossed(num, den, names, seeds), g.permutation(len(num))
    assert stats.crossed(num[order], den[order], names[order], seeds[order]) == e
    halves = [np.concatenate([x, x]) for x in (num / 2, den / 2, names, seeds)]
    twice = stats.crossed(*halves)
    assert twice.value == pytest.approx(e.value) and twice.variances == pytest.approx(e.variances)
    assert (twice.n, twice.seeds) == (e.n, e.seeds) == (20, 3)


def test_units_scale_and_shift_and_constants_have_no_width():
    y = crossed_normal(rng(8), (3, 20), 1, 1, 1)
    e = stats.crossed(*columns(y))
    assert stats.crossed(*columns(-7 * y)).interval() == pytest.approx(
        (-7 * e.value, -7 * e.interval().high, -7 * e.interval().low, 20)
    )
    assert stats.crossed(*columns(y + 100)).variances == pytest.approx(e.variances)
    num, den, prompts, seeds = columns(y)
    assert stats.crossed(num, 5 * den, prompts, seeds).se == pytest.approx(e.se / 5)
    tenth = stats.crossed(*columns(np.full((3, 20), 0.1)))
    assert tenth.se == 0 and tenth.p == 0 and tenth.interval()[:3] == (tenth.value,) * 3
    shift = stats.crossed_difference(num + 0.1, den, num, den, prompts, seeds)
    assert shift.se == 0 and shift.value == pytest.approx(0.1)
    assert stats.crossed_difference(num, den, num, den, prompts, seeds).p == 1


def test_a_gain_that_came_from_the_seeds_is_no_longer_one():
    """Three seeds that gained 0.02, 0.10 and 0.24: certain for these three, and says little about a fourth."""
    gains = np.array([0.02, 0.10, 0.24])[:, None] + 0.3 * rng(9).normal(size=(3, 150))
    num, den, prompts, seeds = columns(gains)
    # what resampling prompts and holding seeds fixed comes to: a t interval over the prompts' means
    old = stats.one_way(num, den, prompts).interval()
    new = stats.crossed_difference(num, den, 0 * num, den, prompts, seeds).interval()
    assert old.value == pytest.approx(new.value) and old.low > 0.05 and new.low < 0 < new.high
    assert stats.verdict(old, 0.03) == "holds" and stats.verdict(new, 0.03) == "not resolved"


@pytest.mark.parametrize(
    "bad, said",
    [
        (([], [], [], []), "finite columns of one length"),
        (([1.0, 2], [1.0], [0, 1], [0, 0]), "finite columns of one length"),
        (([1.0, np.nan], [1.0, 1], [0, 1], [0, 0]), "finite columns of one length"),
        (([1.0, 2], [1.0, 1], [0, 0], [0, 1]), "two prompts or worlds"),
        (([1.0, 2], [0.0, 0], [0, 1], [0, 0]), "denominator above 0"),
    ],
)
def test_what_cannot_be_estimated(bad, said):
    with pytest.raises(ValueError, match=said):
        stats.crossed(*bad)
    with pytest.raises(ValueError, match="two seeds"):
        stats.components(stats.rates([1, 2], [1, 1], [0, 1], [0, 0]))


# ------------------------------------------------------------------------------------------------ one more seed, power


def test_one_more_seed_by_hand():
    table = stats.rates(*columns(HAND))
    half = 12.706204736174694 * (1.5 * 4.5) ** 0.5  # seed means 2 and 5
    assert stats.predict(table) == pytest.approx((3.5, 3.5 - half, 3.5 + half, 3), rel=1e-9)
    assert stats.predict(table, new_prompts=[0, 1, 2]) == pytest.approx(stats.predict(table))
    other = 2.5 * (1 / 2 + 1 / 3 - 2 / 6) + 1.5 * (1 / 2 - 1 / 3)  # prompts "1" and "7"
    df = (6.75 + other) ** 2 / (6.75**2 / 1 + other**2 / 2)
    half = scipy.stats.t.ppf(0.975, df) * (6.75 + other) ** 0.5
    assert stats.predict(table, new_prompts=[1, 7]).high == pytest.approx(3.5 + half, rel=1e-9)
    with pytest.raises(ValueError, match="one seed"):
        stats.predict(stats.rates([1, 2], [1, 1], [0, 1], [0, 0]))


@pytest.mark.parametrize("new", [range(40), range(12), range(30, 60)])
def test_one_more_seed_lies_inside_as_often_as_said(new):
    g, hits = rng(10), []
    for _ in range(600):
        seeds, prompts = 0.3 * g.normal(size=(5, 1)), g.normal(size=60)
        y = seeds + prompts + g.normal(size=(5, 60))
        i = stats.predict(stats.rates(*columns(y[:4, :40])), new)
        hits.append(i.low <= y[4, list(new)].mean() <= i.high)
    assert 0.93 <= np.mean(hits) <= 0.99


def test_detectable_effect_by_hand_and_back():
    c = stats.Components(0.09, 0.5, 0.4)
    by_seed, added = 0.09 / 5 + 0.4 / 500, 0.5 / 100
    t = scipy.stats.t.ppf
    reach = lambda q: (t(q, 4) ** 2 * by_seed + t(q, 99) ** 2 * added) ** 0.5  # noqa: E731
    found = stats.detectable(c, seeds=5, prompts=100)
    assert found == pytest.approx(reach(0.975) + reach(0.8), rel=1e-9)
    assert stats.power(found, c, seeds=5, prompts=100) == pytest.approx(0.8)
    assert stats.power(0, c, seeds=5, prompts=100) == pytest.approx(0.025)
    assert stats.power(-found / 3, c, seeds=5, prompts=100) < 0.25
    assert stats.detectable(c, seeds=8, prompts=100) < found < stats.detectable(c, seeds=5, prompts=100, level=0.99)
    worlds = stats.detectable(stats.Components(0, 2, 0), seeds=1, prompts=50)
    assert worlds == pytest.approx((t(0.975, 49) + t(0.8, 49)) * 0.2)
    with pytest.raises(ValueError, match="one seed"):
        stats.detectable(c, seeds=1, prompts=100)


@pytest.mark.parametrize("seeds, sd", [(3, 0.2), (5, 0.1), (5, 0.5), (8, 0.0)])
def test_detectable_effect_is_detected_that_often(seeds, sd):
    c, shape = stats.Components(sd**2, 1, 1), (3000, seeds, 60)
    effect = stats.detectable(c, seeds=seeds, prompts=60)
    y = effect + crossed_normal(rng(11), shape, sd, 1, 1)
    e = stats.estimate(stats.linearise(np.ones(shape[1:], bool), (y, np.ones(shape))))
    assert np.mean(e.interval().low > 0) == pytest.approx(0.8, abs=0.06)


# ------------------------------------------------------------------------------------------------ verdicts


def test_holm_levels_by_hand():
    found = stats.holm_levels([0.04, 0.001, 0.03])  # 0.001 < 0.05 / 3; 0.03 >= 0.05 / 2: both after it keep that level
    assert found == pytest.approx([1 - 0.05 / 2, 1 - 0.05 / 3, 1 - 0.05 / 2])
    assert stats.holm_levels([0.02, 0.01]) == pytest.approx([0.95, 0.975])
    assert len(stats.holm_levels([])) == 0


def test_intervals_at_holms_levels_exclude_0_exactly_where_holm_rejects():
    g = rng(12)
    for _ in range(500):
        p = np.round(g.choice([1, 0.05, 0.02]) * g.random(g.integers(1, 8)), g.choice([2, 3, 12]))  # with ties
        p = np.clip(p, 1e-6, 1 - 1e-6)
        levels = stats.holm_levels(p)
        at_edge = np.isclose(stats.holm(p), 0.05, rtol=1e-9)  # an interval that ends at 0
        z = scipy.stats.t.isf(p / 2, 7)
        low = [stats.Estimate(v, (1.0,), (7,), 9, 1).interval(x).low for v, x in zip(z, levels)]
        assert ((np.array(low) > 0) == (stats.holm(p) < 0.05))[~at_edge].all()
        order = g.permutation(len(p))
        assert (stats.holm_levels(p[order]) == levels[order]).all() and (np.diff(levels[np.argsort(p)]) <= 0).all()


BRANCHES = [
    ("holds", (0.10, 0.02, 0.18)),
    ("not resolved", (0.10, -0.02, 0.22)),  # large, uncertain
    ("not resolved", (0.025, 0.01, 0.04)),  # above 0, not worth having, perhaps worth it
    ("no difference", (0.0, -0.02, 0.02)),
    ("no difference", (0.015, 0.005, 0.025)),  # certainly above 0 and certainly too small
    ("not resolved", (0.0, -0.04, 0.04)),
    ("not resolved", (0.10, 0.0, 0.20)),  # the end at 0 itself is not above it
    ("fails", (-0.10, -0.18, -0.02)),
]


@pytest.mark.parametrize("said, numbers", BRANCHES)
def test_verdicts_and_their_mirror(said, numbers):
    value, low, high = numbers
    mirrored = {"holds": "fails", "fails": "holds"}
    assert stats.verdict(stats.Interval(value, low, high, 9), 0.03) == said
    assert stats.verdict(stats.Interval(-value, -high, -low, 9), 0.03) == mirrored.get(said, said)


def test_verdict_needs_a_size_and_not_worse_its_three_branches():
    with pytest.raises(ValueError, match="above 0"):
        stats.verdict(stats.Interval(0, -1, 1, 9), 0)
    said = [stats.not_worse(stats.Interval(v, v - 0.02, v + 0.02, 9), 0.03) for v in (0.0, -0.03, -0.06)]
    assert said == ["holds", "not resolved", "fails"]


def test_a_cut_is_undone_where_samples_are_normal():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1.0, 2.0, 20000), rng.normal(2.0, 2.0, 20000)
    assert stats.uncut([a, b], 50.0) == pytest.approx([a.mean(), b.mean()])  # nothing is cut
    for cut in (3.0, 1.5, 0.0):  # up to seven of ten
        found = stats.uncut([np.minimum(a, cut), np.minimum(b, cut)], cut, steps=400)
        assert found == pytest.approx([1.0, 2.0], abs=0.1)
    known, unknown = stats.uncut([np.minimum(a, 0.0), np.zeros(5)], 0.0)
    assert np.isfinite(known) and np.isnan(unknown)

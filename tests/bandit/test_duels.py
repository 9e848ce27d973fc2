"""Duels and the ensemble against values by hand (float64) and against the same rules as loops."""

import pytest
import torch

from lib import bandit

R = torch.tensor([[1, 0.5, -0.2, 0.9], [0.2, 0.8, 0.4, -1], [0.9, 1.1, -0.5, 0.3]], dtype=torch.float64)[
    :, None
]  # 3 heads, 1 prompt, 4 answers
KINDS = torch.arange(4)[None]
generator = lambda seed=0: torch.Generator().manual_seed(seed)  # noqa: E731


def test_spread_by_hand():
    logit = [0, 0.31, 0.76, 0.3033333333]
    assert bandit.spread(R, torch.tensor([0]), "logit")[0].tolist() == pytest.approx(logit)
    sigma = [0, 0.0123058779, 0.0251557601, 0.0098860097]
    assert bandit.spread(R, torch.tensor([0]), "sigma")[0].tolist() == pytest.approx(sigma, abs=1e-9)
    assert bandit.spread(R, torch.tensor([2]), "logit")[0, 3].item() == pytest.approx(1.8633333333)
    with pytest.raises(ValueError, match="sigma, logit.*'var'"):
        bandit.spread(R, torch.tensor([0]), "var")


def test_the_two_spreads_disagree():
    r = torch.tensor([[0, 6, 0.5], [0, 10, -0.5]], dtype=torch.float64)[:, None]
    kinds = torch.arange(3)[None]
    for kind, second in (("logit", 1), ("sigma", 2)):
        first = torch.zeros(1, dtype=torch.long)
        assert bandit.spread(r, first, kind)[0].argmax() == second
    sigma = 2 * bandit.spread(r, torch.tensor([0]), "sigma")[0]  # the unbiased estimate of two heads
    assert sigma.tolist() == pytest.approx([0, 2.9457e-6, 0.0299926], rel=1e-4)
    assert bandit.best_arm(r, kinds, torch.tensor([0]), kind="sigma")[0].tolist() == [1, 2]


@pytest.mark.parametrize("first, second", [(0, 2), (1, 3), (2, 3), (3, 2)])
def test_best_arm_by_hand(first, second):
    assert bandit.best_arm(R, KINDS, torch.tensor([0]), kind="logit")[0].tolist() == [0, 2]
    assert bandit.best_arm(R, KINDS, torch.tensor([1]), kind="logit")[0].tolist() == [1, 3]
    assert bandit.spread(R, torch.tensor([first]), "logit")[0].argmax() == second


def test_double_thompson_by_hand():
    for order, duel in (([0, 1, 2], [0, 1]), ([1, 2, 0], [1, 0])):
        assert bandit.double_thompson(R, KINDS, torch.tensor([order]))[0].tolist() == duel
    agree = R[[1, 2]]  # both like answer 1 best: the last head's second best
    assert bandit.double_thompson(agree, KINDS, torch.tensor([[0, 1]]))[0].tolist() == [1, 0]


def test_pairs_by_hand():
    assert bandit.least_certain(R, KINDS, kind="logit")[0].tolist() == [2, 3]
    for head, pair in ((0, [0, 2]), (1, [1, 3]), (2, [1, 2])):
        assert bandit.best_and_worst(R, torch.tensor([head]))[0].tolist() == pair
    pair, margin = bandit.widest(torch.tensor([[0.4, -0.3, 0.1, 1.2]], dtype=torch.float64))
    assert sorted(pair[0].tolist()) == [1, 3] and margin.item() == pytest.approx(1.5)
    assert bandit.entropy(torch.tensor([[-30.0, -32], [-10, -14], [-50, -44]])).tolist() == [31, 12, 47]


def test_regret_by_hand():
    true = torch.tensor([[2.0, 1, 0, -1]], dtype=torch.float64)
    for duel, bt, preference in (([1, 3], 2.0, 0.6836327055), ([0, 1], 0.5, 0.2310585786)):
        a, b = bandit.regret(true, torch.tensor([duel]))
        assert a.item() == pytest.approx(bt) and b.item() == pytest.approx(preference, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_rules_are_the_same_as_loops(seed):
    g = generator(seed)
    k, b, n = 5, 7, 6
    r = torch.randn(k, b, n, generator=g, dtype=torch.float64)
    kinds = torch.randint(0, 3, (b, n), generator=g)
    heads, order = torch.randint(k, (b,), generator=g), torch.rand(b, k, generator=g).argsort(1)
    arm, ets, unsure = (
        bandit.best_arm(r, kinds, heads),
        bandit.double_thompson(r, kinds, order),
        bandit.least_certain(r, kinds),
    )
    for i in range(b):
        var = lambda x, y: float(torch.sigmoid(r[:, i, x] - r[:, i, y]).var(correction=0))  # noqa: B023, E731
        other = lambda x: [j for j in range(n) if kinds[i, j] != kinds[i, x]]  # noqa: B023, E731
        first = int(r[heads[i], i].argmax())
        if other(first):
            assert arm[i].tolist() == [first, max(other(first), key=lambda j: var(first, j))]  # noqa: B023
        first = int(r[order[i, 0], i].argmax())
        second = None
        for h in order[i, 1:].tolist():
            pick = int(r[h, i].argmax())
            if kinds[i, pick] != kinds[i, first]:
                second = pick
                break
        if second is None and other(first):
            second = max(other(first), key=lambda j: float(r[order[i, -1], i, j]))  # noqa: B023
        if second is not None:
            assert ets[i].tolist() == [first, second]
        pairs = [(x, y) for x in range(n) for y in other(x)]
        if pairs:
            best = max(pairs, key=lambda p: var(*p))
            assert var(*unsure[i].tolist()) == pytest.approx(var(*best))


@pytest.mark.parametrize("seed", range(3))
def test_no_duel_holds_one_answer_twice_while_two_differ(seed):
    g = generator(seed)
    r, kinds = torch.randn(4, 200, 5, generator=g), torch.randint(0, 2, (200, 5), generator=g)
    heads, order = torch.randint(4, (200,), generator=g), torch.rand(200, 4, generator=g).argsort(1)
    two = kinds.amin(1) != kinds.amax(1)
    for duels in (
        bandit.best_arm(r, kinds, heads),
        bandit.double_thompson(r, kinds, order),
        bandit.least_certain(r, kinds),
        bandit.two_of(kinds, g),
        bandit.first_two(kinds),
    ):
        a, b = kinds.gather(1, duels).unbind(1)
        assert (a != b)[two].all() and (duels[:, 0] != duels[:, 1])[~two].sum() >= 0 and duels.max() < 5
    assert (
        bandit.two_of(torch.zeros(9, 3, dtype=torch.long), g).diff(dim=1) != 0
    ).all()  # all equal: two places all the same


def test_passive_takes_the_first_two():
    assert bandit.first_two(torch.tensor([[0, 1, 2], [0, 0, 1], [0, 0, 0]])).tolist() == [[0, 1], [0, 2], [0, 1]]


def test_kinds():
    assert bandit.kinds_of([[(1, 2), (3,), (1, 2)], [(9,), (9,), (8,)]]).tolist() == [
        [0, 1, 0],
        [0, 0, 1],
    ] and bandit.kinds_of([[4, 4, 2]]).tolist() == [[4, 4, 2]]  # whole numbers say it themselves


def test_reward_loss_by_hand():
    chosen, rejected = (
        torch.tensor([[1, 0.2], [0.5, -0.3]], dtype=torch.float64),
        torch.tensor([[0, 0.4], [0.7, -1.3]], dtype=torch.float64),
    )
    assert bandit.reward_loss(chosen, rejected).item() == pytest.approx(0.5557002784, abs=1e-9)
    assert bandit.reward_loss(chosen, rejected, torch.tensor([1.0, 0.0])).item() == pytest.approx(
        0.2778501392, abs=1e-9
    )


def test_ensemble_is_its_heads_one_by_one():
    e = bandit.Ensemble(3, 5, 4, generator=generator())
    x = torch.randn(2, 7, 5)
    got = e(x).detach()
    assert got.shape == (3, 2, 7)
    for k in range(3):
        h = x
        for j, (w, b) in enumerate(zip(e.weights, e.biases)):
            h = h @ w[k].detach() + b[k, 0].detach()
            h = h.relu() if j < 2 else h
        assert torch.allclose(got[k], h[..., 0], atol=1e-6)
    assert (
        e.weights[0].abs().max() <= 1 / 5**0.5
        and e.weights[0].std().item() == pytest.approx(0.44 / 5**0.5, rel=0.3)
        and not any(b.any() for b in e.biases)
    )
    with pytest.raises(ValueError, match="at least 1, given 0"):
        bandit.Ensemble(0, 5, 4, generator=generator())


def _trained(anchor, steps=300):
    e = bandit.Ensemble(6, 3, 8, generator=generator(1))
    w, l = torch.randn(2, 16, 3, generator=generator(2))
    optimizer = torch.optim.Adam(e.parameters(), lr=1e-2)
    for _ in range(steps):
        r = e(torch.stack([w, l]))
        loss = bandit.reward_loss(r[:, 0], r[:, 1]) + anchor(e)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return e


def test_the_anchor_holds_each_head_near_its_start():
    free, held = _trained(lambda e: 0.0), _trained(lambda e: bandit.anchor(e, weight=1.0, seen=16))
    assert held.distance().mean() < 0.5 * free.distance().mean() and (held.distance() > 0).all()
    e = bandit.Ensemble(2, 3, 4, generator=generator())
    assert e.distance().tolist() == [0, 0]
    with torch.no_grad():
        e.weights[0][0, 0, 0] += 2
    assert e.distance().tolist() == pytest.approx([4, 0]) and bandit.anchor(
        e, weight=0.5, seen=4
    ).item() == pytest.approx(0.5 / 4 * 2)
    n = sum(p.numel() for p in e.parameters())
    assert bandit.release_anchor(e, weight=0.5, seen=1280).item() == pytest.approx(0.05 * 4 / n)


def test_the_anchor_of_the_release_is_all_but_inactive_at_its_size():
    e = bandit.Ensemble(20, 2048, 128, generator=generator())
    assert sum(p.numel() for p in e.parameters()) == 5_578_260
    with torch.no_grad():
        e.biases[2] += 1
    share = bandit.release_anchor(e, weight=0.5, seen=640) / bandit.anchor(e, weight=0.5, seen=640)
    assert share.item() == pytest.approx(128 * 20 / 5_578_260, rel=1e-4)


def test_ensemble_disagrees_more_away_from_its_data():
    e = _trained(lambda e: bandit.anchor(e, weight=0.5, seen=16))
    near, far = torch.randn(200, 3, generator=generator(3)), 6 * torch.randn(200, 3, generator=generator(4))
    assert e(far).std(0).mean() > 2 * e(near).std(0).mean()


def test_ensembles_side_by_side_are_those_one_by_one():
    g = torch.Generator().manual_seed(0)
    both, x = bandit.Ensemble(3, 4, 5, generator=g, worlds=2), torch.randn(6, 7, 4, generator=g)
    got = both(x)
    assert got.shape == (3, 6, 7)
    for w in range(2):
        one = bandit.Ensemble(3, 4, 5, generator=g)
        for p, q in zip(one.parameters(), both.parameters()):
            p.data.copy_(q[3 * w : 3 * w + 3])
        assert torch.allclose(one(x[3 * w : 3 * w + 3]), got[:, 3 * w : 3 * w + 3], atol=1e-6)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("kind", bandit.SPREADS)
def test_a_duel_holds_two_answers_even_where_all_are_equal(heads, kind):
    r, kinds, drawn = torch.zeros(heads, 2, 4), torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    assert (bandit.spread(r, drawn, kind) == 0).all(), "one head disagrees with nobody"
    order = torch.zeros(2, heads, dtype=torch.long)
    for pair in (
        bandit.best_arm(r, kinds, drawn, kind=kind), bandit.least_certain(r, kinds, kind=kind), bandit.first_two(kinds),
        bandit.double_thompson(r, kinds, order), bandit.best_and_worst(r, drawn), bandit.widest(r[0])[0],
    ):  # fmt: skip
        assert (pair[:, 0] != pair[:, 1]).all()


def test_double_reverse_and_delta_ucb_by_hand():
    """Three heads, three answers. DRTS: the drawn head's best against another's worst. DeltaUCB: means (2, 1, 0) and
    deviations (0, 2, 1): the widest gap is answer 1 (1 + 2) over answer 2 (0 - 1), though its mean is not the best."""
    r = torch.tensor([[2.0, 3, -1], [2, 1, 0], [2, -1, 1]])[:, None]
    kinds = torch.arange(3)[None]
    drts = lambda a, b: bandit.double_reverse(r, kinds, torch.tensor([[a, b]]))[0].tolist()  # noqa: E731
    assert [drts(0, 0), drts(0, 1), drts(1, 2), drts(2, 0), drts(2, 2)] == [[1, 2], [1, 2], [0, 1], [0, 2], [0, 1]]
    assert r.mean(0).tolist() == [[2, 1, 0]] and r.std(0).tolist() == [[0, 2, 1]]
    assert bandit.delta_ucb(r, kinds)[0].tolist() == [1, 2]
    assert bandit.delta_ucb(r, kinds, width=0.0)[0].tolist() == [0, 2]  # no optimism: the largest gap of the means
    # means (3, 1/2, 0), deviations (0, 2, 0): answer 1 may be the lowest of all, at 1/2 - 2, though its mean is not
    low = torch.tensor([[3.0, -1.5, 0], [3, 0.5, 0], [3, 2.5, 0]])[:, None]
    assert bandit.delta_ucb(low, kinds)[0].tolist() == [0, 1]
    one = torch.tensor([[1.0, 5, 0]])[:, None]
    assert bandit.double_reverse(one, kinds, torch.tensor([[0, 0]]))[0].tolist() == [1, 2]
    assert bandit.delta_ucb(one, kinds)[0].tolist() == [1, 2]


def test_the_new_rules_never_duel_an_answer_with_itself():
    """Where the second head's worst is the first head's best it takes its second worst, as a redraw in the end does."""
    r = torch.tensor([[3.0, 2, 1], [1, 2, 3]])[:, None]
    kinds = torch.arange(3)[None]
    assert bandit.double_reverse(r, kinds, torch.tensor([[0, 1]]))[0].tolist() == [0, 1]
    wide = torch.tensor([[9.0, 0, 0], [-9, 0, 0]])[:, None]  # both the highest and the lowest bound are answer 0's
    assert bandit.delta_ucb(wide, kinds)[0].tolist() in ([0, 1], [0, 2])
    same = torch.tensor([[0, 0, 1]])  # equal answers: never compared while two differ
    for rewards in (r, wide):
        for pair in (bandit.double_reverse(rewards, same, torch.tensor([[0, 1]])), bandit.delta_ucb(rewards, same)):
            assert same[0, pair[0, 0]] != same[0, pair[0, 1]]
    assert bandit.delta_ucb(r, torch.zeros(1, 3, dtype=torch.long))[0].unique().numel() == 2

"""Every identity of the attribute-control notes, on a world whose answers can all be written down."""

import pytest
import torch

from lib import constraint
from lib.constraint import tabular
from lib.constraint.tabular import answers, closest, divergence, log_tables, success


@pytest.fixture(scope="module")
def small():
    return tabular.world(vocabulary=4, length=4, share=0.5, seed=0)


def test_the_world_is_what_it_says(small):
    assert (
        small.tokens.shape == (256, 4)
        and small.corpus.sum() == pytest.approx(1)
        and (small.corpus * (1 - small.fine)).sum() == pytest.approx(0.5)
    )
    for row, fine in zip(small.tokens.tolist(), small.fine.tolist()):
        assert fine == (3 not in row and not any(a == 1 and 2 in row[i:] for i, a in enumerate(row)))
    p = answers(log_tables(small.start)).exp()
    after = torch.tensor([any(a == 0 and any(row[i:]) for i, a in enumerate(row)) for row in small.tokens.tolist()])
    assert p.sum() == pytest.approx(1) and p[after].sum() == 0 and small.corpus[after].sum() == 0
    tables = log_tables(small.start)
    assert p[27].log().item() == pytest.approx(
        sum(tables[i][27 // 4 ** (4 - i), small.tokens[27, i]].item() for i in range(4))
    )  # 27 is 0123: nothing
    assert p[108].log().item() == pytest.approx(
        sum(tables[i][108 // 4 ** (4 - i), small.tokens[108, i]].item() for i in range(4))
    )


def test_success_rates_are_sums_over_answers(small):
    tables = log_tables(small.start)
    p, r = answers(tables).exp(), success(tables, small.fine)
    for i in range(5):
        groups = p.view(4**i, -1)
        kept = groups.sum(1) > 0
        want = (groups * small.fine.view(4**i, -1)).sum(1) / groups.sum(1)
        assert torch.allclose(r[i][kept], want[kept])


@pytest.mark.parametrize("delta", [0.9, 0.99, 1.0])
def test_token_by_token_is_the_closest_distribution(small, delta):
    tables = log_tables(small.start)
    p, r = answers(tables), success(tables, small.fine)
    q = closest(p, small.fine, delta=delta)
    steered = answers(tabular.steered_tables(tables, r, delta=delta))
    assert torch.allclose(steered.exp(), q.exp(), atol=1e-12) and (q.exp() * small.fine).sum() == pytest.approx(delta)
    rate = r[0].item()
    if delta == 1:
        assert divergence(q, p) == pytest.approx(-r[0].log().item())
    else:
        assert divergence(p, q) == pytest.approx(tabular.bernoulli(rate, delta)) and divergence(q, p) == pytest.approx(
            tabular.bernoulli(delta, rate)
        )
        g = torch.Generator().manual_seed(0)
        for _ in range(20):  # nothing that satisfies the constraint is closer
            other = (q + 0.1 * torch.randn(len(q), generator=g, dtype=torch.float64)).exp()
            other = torch.where(
                small.fine.bool(),
                delta * other / other[small.fine.bool()].sum(),
                (1 - delta) * other / other[~small.fine.bool()].sum(),
            )
            assert divergence(p, other.log()) > divergence(p, q) and divergence(other.log(), p) > divergence(q, p)
    assert closest(p, small.fine, delta=rate / 2) is p


def test_the_chain_rule_over_tokens(small):
    tables = log_tables(small.start)
    p, r = answers(tables), success(tables, small.fine)
    w = tabular.weights(tables, r, delta=0.95)
    q = closest(p, small.fine, delta=0.95)
    for direction, outer, want in (("reverse", p, divergence(p, q)), ("forward", q, divergence(q, p))):
        mass = tabular.prefixes(outer.exp(), tables)
        total = sum((m * constraint.constraint_kl(t, x, direction=direction)).sum() for m, t, x in zip(mass, tables, w))
        assert total.item() == pytest.approx(want)


@pytest.mark.parametrize(
    "lam, forward, reverse", [(0.5, 0.333, 0.218), (1.0, 0.250, 0.146), (2.0, 0.167, 0.095), (5.0, 0.083, 0.054)]
)
def test_fixed_points(small, lam, forward, reverse):
    """Numbers of the notes: forward with a hard constraint, reverse with delta .99."""
    for direction, delta, want in (("forward", 1.0, forward), ("reverse", 0.99, reverse)):
        trained = tabular.train(small, lam=lam, direction=direction, delta=delta, over="answers", steps=400)
        found = tabular.bad_mass(trained, small.fine)
        assert found == pytest.approx(want, abs=1e-3) and found == pytest.approx(
            tabular.predicted(0.5, lam=lam, direction=direction, delta=delta), abs=1e-3
        )
        p, ok = answers(log_tables(trained)), small.fine.bool()
        assert (
            divergence((p[ok].exp() / p[ok].exp().sum()).log(), (small.corpus[ok] / small.corpus[ok].sum()).log())
            < 1e-3
        ), "clean text is not touched"


def test_without_weight_the_corpus_is_learned_and_a_stale_target_ends_in_the_same_place(small):
    assert tabular.bad_mass(
        tabular.train(small, lam=0.0, direction="forward", delta=1.0, over="answers", steps=400), small.fine
    ) == pytest.approx(0.5, abs=1e-3)
    ends = [
        tabular.bad_mass(
            tabular.train(small, lam=1.0, direction="forward", delta=1.0, over="corpus", steps=500, lag=lag), small.fine
        )
        for lag in (0, 20)
    ]
    assert ends[0] == pytest.approx(ends[1], abs=2e-3) and 0.2 < ends[0] < 0.3
    own = tabular.bad_mass(
        tabular.train(small, lam=1.0, direction="forward", delta=1.0, over="own", steps=500), small.fine
    )
    assert own == pytest.approx(ends[0], abs=0.03)


def test_learned_success_rates(small):
    tables = log_tables(small.start)
    true = success(tables, small.fine)
    errors = {
        (n, weight): tabular.error(tabular.learned(small, tables, samples=n, weight=weight, seed=1), true, tables)
        for n in (300, 3000)
        for weight in (0.0, 1.0)
    }
    assert (
        errors[3000, 0.0] < errors[300, 0.0]
        and errors[3000, 1.0] < errors[3000, 0.0] < 0.05
        and tabular.error(true, true, tables) == 0
    )


def test_three_roads_to_the_same_answer(small):
    """A GFlowNet's optimum and reinforcement at a vanishing beta are the hard q* of the start."""
    start = answers(log_tables(small.start))
    q = closest(start, small.fine, delta=1.0)
    found = answers(log_tables(tabular.amortised(small, floor=1e-3, steps=800)))
    assert (
        divergence((start + small.fine.clamp(min=1e-3).log()).log_softmax(0), found) < 5e-3
        and divergence(q, found) < 0.02
    )
    assert (
        divergence(q, tabular.reinforced(small, beta=0.05)) < 1e-6 < divergence(q, tabular.reinforced(small, beta=0.5))
    )


def test_bad_input(small):
    with pytest.raises(ValueError, match=r"share lies in \(0, 1\), given 1"):
        tabular.world(vocabulary=4, length=2, share=1.0, seed=0)
    with pytest.raises(ValueError, match="over is one of answers, corpus, own, given 'all'"):
        tabular.train(small, lam=1.0, direction="forward", delta=1.0, over="all")


def test_a_gradient_that_is_not_finite_stops_the_step():
    table = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([table], lr=0.1)
    tabular._step(optimizer, (table - 1).square().sum())
    before = table.detach().clone()
    with pytest.raises(FloatingPointError, match="gradient of table 0 is not finite; no step"):
        tabular._step(optimizer, (table * torch.nan).sum())
    assert torch.equal(table, before) and (before != 0).all()


def test_what_is_learned_of_the_start_is_the_mean_of_its_first_tokens(small):
    tables = log_tables(small.start)
    whole, first, *_ = tabular.learned(small, tables, samples=50, weight=1.0, seed=1, steps=5)
    want = sum(tables[0][0, v].exp().item() * first[v].item() for v in range(4))
    assert whole.shape == (1,) and whole.item() == pytest.approx(want)

import pytest
import torch

from lib.engine import merging

BASE = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([0.5])}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def shifted(**by):
    return {n: x + torch.tensor(by.get(n, 0.0)) for n, x in BASE.items()}


# ---- weights


def test_average_and_interpolation_by_hand():
    up, down = shifted(a=[[1.0, 0.0], [0.0, 2.0]]), shifted(a=[[-3.0, 0.0], [0.0, 1.0]], b=1.0)
    got = merging.average([up, down, BASE])
    assert torch.allclose(got["a"], BASE["a"] + torch.tensor([[-2 / 3, 0], [0, 1]])) and got[
        "b"
    ].item() == pytest.approx(0.5 + 1 / 3)
    got = merging.average([up, down], [3, 1])  # over their sum
    assert torch.allclose(got["a"], BASE["a"] + torch.tensor([[0.0, 0.0], [0.0, 1.75]])) and got["b"].item() == 0.75
    got = merging.interpolate(BASE, down, 0.25)
    assert torch.allclose(got["a"], BASE["a"] + torch.tensor([[-0.75, 0.0], [0.0, 0.25]])) and got["b"].item() == 0.75
    for w, end in (0, BASE), (1, down):
        assert all(torch.equal(x, end[n]) for n, x in merging.interpolate(BASE, down, w).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_equal_models_merge_to_themselves(k, dtype):
    model = {
        "w": torch.randn(40, 30, generator=generator()).to(dtype),
        "v": torch.randn(5, generator=generator(1)).to(dtype),
    }
    base = {n: torch.zeros_like(x) for n, x in model.items()}
    selected, kept = merging.select([model] * k, base, generator=generator(), redraws=k - 1)
    for got in (merging.average([model] * k), selected):
        assert list(got) == list(model) and all(x.dtype == dtype and torch.equal(x, model[n]) for n, x in got.items())
    assert kept == 0


def test_every_number_has_its_own_draw():
    base = {"w": torch.zeros(300, 400)}
    models = [{"w": torch.full((300, 400), float(i))} for i in (1, 2, 3)]
    w, kept = merging.select(models, base, generator=generator())
    assert kept == 0 and [(w["w"] == i).double().mean().item() for i in (1, 2, 3)] == pytest.approx(
        [1 / 3] * 3, abs=0.01
    )
    assert torch.corrcoef(torch.stack([w["w"][:-1].flatten(), w["w"][1:].flatten()]))[0, 1].abs() < 0.02
    again, other = (merging.select(models, base, generator=generator(s))[0]["w"] for s in (0, 1))
    assert torch.equal(again, w["w"]) and not torch.equal(other, w["w"])
    w, _ = merging.select(models, base, generator=generator(), shares=[2, 1, 1])
    assert [(w["w"] == i).double().mean().item() for i in (1, 2, 3)] == pytest.approx([0.5, 0.25, 0.25], abs=0.01)
    still = [base, *models[1:]]  # a model without a share is not drawn, be it to avoid the base
    assert merging.select(still, base, generator=generator(), shares=[1, 0, 0], redraws=2)[1] == 1


def test_redraws_prefer_a_changed_number():
    """One of three models changed a number: kept in 2/3, then in 2/3 * 1/2 of the cases, then never."""
    base = {"w": torch.zeros(100_000)}
    models = [{"w": torch.zeros(100_000)}, {"w": torch.zeros(100_000)}, {"w": torch.ones(100_000)}]
    for redraws, want in (0, 2 / 3), (1, 1 / 3), (2, 0):
        w, kept = merging.select(models, base, generator=generator(), redraws=redraws)
        assert kept == pytest.approx(want, abs=0.005) and (w["w"] == 0).double().mean().item() == pytest.approx(kept)
    # none changed the first number, all the second one, and what is not the base is never drawn again
    w, kept = merging.select(
        [{"w": torch.tensor([0.0, 1.0 + i])} for i in range(3)], {"w": torch.zeros(2)}, generator=generator(), redraws=2
    )
    assert w["w"][0] == 0 and w["w"][1] > 0 and kept == 0.5


def test_float32_leaves_nothing_to_redraw_and_bfloat16_does():
    base = {"w": torch.randn(20_000, generator=generator())}
    moved = [base["w"] + 1e-3 * torch.randn(20_000, generator=generator(i)) for i in (1, 2, 3)]
    counts = {}
    for dtype in (torch.float32, torch.bfloat16):
        cast = [{"w": m.to(dtype)} for m in moved]
        counts[dtype] = [
            merging.select(cast, {"w": base["w"].to(dtype)}, generator=generator(), redraws=r)[1] for r in (0, 2)
        ]
    assert max(counts[torch.float32]) < 1e-2 and counts[torch.bfloat16][0] > 0.6 > counts[torch.bfloat16][1] + 0.1


def test_bad_weights():
    with pytest.raises(ValueError, match="number 1 differs from number 0 in b"):
        merging.average([BASE, {**BASE, "b": torch.zeros(2)}])
    with pytest.raises(ValueError, match="number 2 differs from number 0 in c"):  # the base comes after the models
        merging.select([BASE, BASE], {**BASE, "c": torch.zeros(1)}, generator=generator())
    with pytest.raises(ValueError, match="at least one model"):
        merging.average([])
    with pytest.raises(ValueError, match="not all 0, given \\[0, 0\\] for 2"):
        merging.average([BASE, BASE], [0, 0])
    with pytest.raises(ValueError, match="between 0 and 1, given 1.5"):
        merging.interpolate(BASE, BASE, 1.5)
    with pytest.raises(ValueError, match="redraws are 0 to 1, the number of other models, given 2"):
        merging.select([BASE, BASE], BASE, generator=generator(), redraws=2)


# ---- pairs


def test_pairs_are_of_one_question():
    found = merging.pairs(["x", "y", "x", "x", "y", "z"], [3, 2, 1, 2, 1, 3], best=3)
    assert found == [(0, 2, 2), (0, 3, 1)]  # y has no answer of score 3, z no lower one
    with pytest.raises(ValueError, match="given 1 and 2"):
        merging.pairs(["x"], [1, 2], best=3)


def test_easy_pairs_give_way_to_hard_ones():
    gaps = [2, 1] * 30
    easy_share = lambda batches: [sum(gaps[i] == 2 for i in b) / len(b) for b in batches]  # noqa: E731

    def draw(order, steps=10, batch=12):
        return merging.curriculum(gaps, easy=2, steps=steps, batch=batch, order=order, generator=generator())  # noqa: E731

    rising, falling, mixed = (easy_share(draw(o)) for o in ("hard to easy", "easy to hard", "mixed"))
    assert (
        falling == sorted(falling, reverse=True)
        and falling[0] >= 11 / 12
        and falling[-1] <= 1 / 12
        and mixed == [0.5] * 10
    )
    for shares, sign in (falling, 1), (rising, -1):
        want = [0.5 + sign * (0.5 - (t + 0.5) / 10) for t in range(10)]
        assert shares == pytest.approx(want, abs=1 / 12) and sum(shares) == pytest.approx(5, abs=1 / 12)
    for batches in (draw("easy to hard"), draw("mixed", 7, 5)):
        assert len({len(b) for b in batches}) == 1
        shown = [i for b in batches for i in b]
        for kind in (1, 2):  # once an epoch: no pair twice more than another
            times = [shown.count(i) for i, g in enumerate(gaps) if g == kind]
            assert max(times) - min(times) <= 1
    assert draw("mixed") == draw("mixed")


def test_bad_curricula():
    how = dict(easy=2, steps=3, batch=2, order="mixed", generator=generator())
    with pytest.raises(ValueError, match="both needed, given 0 with a gap of 2 or more and 2 below"):
        merging.curriculum([1, 1], **how)
    with pytest.raises(ValueError, match="order is one of easy to hard, hard to easy, mixed, given 'up'"):
        merging.curriculum([1, 2], **{**how, "order": "up"})
    with pytest.raises(ValueError, match="given 0 and 2"):
        merging.curriculum([1, 2], **{**how, "steps": 0})

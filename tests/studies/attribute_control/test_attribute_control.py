"""Attribute-controlled fine-tuning on the tiny model: what is sampled, what R learns, and where the model goes."""

import copy
import math

import pytest
import torch

from lib import constraint
from lib.engine.logprobs import pack
from lib.harness import presets
from lib.studies.attribute_control import auxiliary, forum, methods
from lib.studies.attribute_control.auxiliary import collect, hidden, nado_losses, new_nado, targets, teach
from lib.studies.attribute_control.steps import batches_of, clean, new_stepper, slices, train
from lib.studies.attribute_control.world import build, snapshot, text_of, token_ids

BYTE = "e"  # the attribute of these tests: a text that holds this letter
FEW = {"PRESET": "smoke", "SEED": 0, "LAM": 4.0, "ITERATIONS": 2}


def oracle(texts):
    return torch.tensor([float(BYTE in t) for t in texts], dtype=torch.float64)


def lines(n=8):
    return [
        forum.Line(f"p{i % 4}:", " hello" if i % 2 else " word", bool(i % 2), "forum" if i < n - 2 else "general")
        for i in range(n)
    ]


@pytest.fixture
def make(tiny_model, byte_tokenizer):
    def world(**changes):
        settings = (
            presets.resolve("attribute_control", FEW).as_dict()
            | {"seed": 0, "n_asked": 3, "each": 4, "tokens": 5, "batch": 4}
            | changes
        )
        from types import SimpleNamespace

        return build(
            SimpleNamespace(**settings),
            copy.deepcopy(tiny_model),
            byte_tokenizer,
            lines=lines(),
            asked=["p0:", "p1:", "p2:", "p3:"],
            oracle=oracle,
            stop_ids=[257],
        )

    return world


def test_samples_are_the_model_s_own_and_labelled(make):
    w = make()
    s = collect(w, "x", n=4, prompts=3, mixed=2)
    assert [len(a) for _, a in s.rows] == [4, 4, 4, 1, 1] and len(s.done) == 12 and len(s.fine) == 14
    texts = [text_of(w, a) for _, answers in s.rows for a in answers]
    assert s.fine.tolist() == [float(BYTE not in t) for t in texts]
    again = collect(w, "x", n=4, prompts=3, mixed=2)
    assert again.rows == s.rows and collect(w, "y", n=4, prompts=3, mixed=2).rows != s.rows
    assert all(p in [token_ids(w, x.prompt) for x in w.lines[:6]] for p, _ in s.rows[3:]), (
        "general lines teach R nothing"
    )


def test_the_law_that_answers_were_drawn_by_is_each_token_s_at_its_temperature(make):
    """log q typed again from a forward over each answer alone; at tau 1 it is log p as sampling recorded it."""
    for tau in (0.5, 1.0):
        w = make(tau=tau)
        s = collect(w, "x", n=3, prompts=3, mixed=1)
        got = auxiliary._drawn_by(w, hidden(w, s.rows, s.pieces, answers=2), len(s.done))
        prompts = [p for p, answers in s.rows[:3] for _ in answers]
        for p, c, q in zip(prompts, s.done, got.tolist()):
            logits = w.model(torch.tensor([[*p, *c.tokens]])).logits[0, len(p) - 1 : -1].double()
            each = (tau * logits).log_softmax(-1)[torch.arange(len(c.tokens)), torch.tensor(c.tokens)]
            assert q == pytest.approx(each.sum().item(), abs=1e-4)
            assert tau < 1 or q == pytest.approx(sum(c.logprobs), abs=1e-4)


def test_states_are_those_that_generate_reads(make, tiny_model):
    """Row by row through the whole model: index alignment of hidden states, tokens and branches."""
    w = make()
    rows = w.rows[:3]
    (h, target, branch, n), *_ = hidden(w, rows, w.pieces[:3])
    assert n == 3 and target.tolist() == [t for _, (a,) in rows for t in a]
    for k, (p, (a,)) in enumerate(rows):
        want = tiny_model.base_model(torch.tensor([p + a])).last_hidden_state[0, len(p) - 1 : -1]
        assert torch.allclose(h[branch == k], want, atol=1e-4)


def test_success_rates_are_learned_and_one_label_teaches_nothing(make):
    w = make(nado_epochs=60, nado_lr=1e-2, each=8)
    s = collect(w, "x", n=8, prompts=4, mixed=6)
    assert 0 < s.fine.mean() < 1
    nado = new_nado(w)
    log = teach(w, nado, s, "x")
    (h, target, branch, _), *_ = hidden(
        w, *zip(*[(r, p) for r, p, x in zip(w.rows, w.pieces, w.lines) if x.domain == "forum"])
    )
    with torch.no_grad():
        r = nado(h, target)[0].exp()
    ends = torch.stack([r[branch == k][-1] for k in range(len(set(branch.tolist())))])
    toxic = torch.tensor([bool(i % 2) for i in range(len(ends))])
    assert (
        log["updated"] == 1 and log["cross-entropy of R"] < 0.5 and ends[toxic].mean() < 0.3 < 0.6 < ends[~toxic].mean()
    )
    before = copy.deepcopy(nado.state_dict())
    for label in (0.0, 1.0):
        log = teach(w, nado, s._replace(fine=torch.full_like(s.fine, label)), "x")
        assert log["updated"] == 0 and all(
            torch.equal(a, b) for a, b in zip(before.values(), nado.state_dict().values())
        )


def test_the_losses_of_r_typed_again(make):
    """Prefix by prefix: E is asked of the state that predicts the next token, r was said by the state before it."""
    w = make(consistent=1.0)
    nado = new_nado(w)
    nado.out.data = torch.randn(nado.out.shape, generator=torch.Generator().manual_seed(0)) / 20
    nado.value.data = torch.randn(nado.value.shape, generator=torch.Generator().manual_seed(1)) / 10
    (h, target, branch, n), *_ = hidden(w, w.rows[:3], w.pieces[:3])
    fine = torch.tensor([1.0, 0.0, 1.0])
    bce, gap = nado_losses(w, nado, h, target, branch, fine, torch.ones(3), torch.Generator().manual_seed(0))
    said, kls = [], []
    for k in range(n):
        p, (a,) = w.rows[k]
        states = w.model.base_model(torch.tensor([p + a])).last_hidden_state[0, len(p) - 1 : -1]
        r = [nado(states[i : i + 1])[0].exp()[0] for i in range(len(a))]
        said += [-math.log(r[i][a[i]].item() if fine[k] else 1 - r[i][a[i]].item()) for i in range(len(a))]
        for i in range(1, len(a)):
            e, before = w.head.logits(states[i]).softmax(-1).dot(r[i]).item(), r[i - 1][a[i - 1]].item()
            kls.append(e * math.log(e / before) + (1 - e) * math.log((1 - e) / (1 - before)))
    assert bce.item() == pytest.approx(sum(said) / len(said), rel=1e-3) and gap.item() == pytest.approx(
        sum(kls) / len(kls), rel=1e-3
    )


def test_the_target_of_a_line_is_read_from_its_own_prompt(make):
    w = make()
    nado = new_nado(w)
    nado.value.data += 0.1
    nado.out.data += 0.01
    got = targets(w, nado, [5, 1])
    for i in (1, 5):
        h, rate = got[i]
        packed = pack([w.rows[i]])
        assert len(h) == len(packed.target)
        p = w.head.logits(h[:1]).log_softmax(-1).exp()
        assert rate.item() == pytest.approx((p * nado(h[:1])[0].exp()).sum().item(), rel=1e-5)


def test_no_weight_or_an_untrained_r_is_plain_fine_tuning(make):
    ends = []
    for lam, nado in ((0.0, None), (0.0, "new"), (5.0, "new")):
        w = make()
        batches = batches_of(w, list(range(8)))
        train(
            w, new_stepper(w, len(batches)), batches, nado=new_nado(w) if nado else None, lam=lam, gated=True, desc="x"
        )
        ends.append(snapshot(w))
    for other in ends[1:]:
        assert all(torch.allclose(ends[0][k], other[k], atol=1e-6) for k in ends[0])


def test_the_gate_leaves_general_lines_alone(make):
    """With only general lines in a step, a gated KL changes nothing; everywhere it does."""
    ends = []
    for gated in (True, False):
        w = make()
        nado = new_nado(w)
        nado.out.data = torch.randn(nado.out.shape, generator=torch.Generator().manual_seed(0))
        row = train(w, new_stepper(w, 1), [[6, 7]], nado=nado, lam=5.0, gated=gated, desc="x")[0]
        ends.append((row, snapshot(w)))
    w = make()
    train(w, new_stepper(w, 1), [[6, 7]], nado=None, lam=0.0, gated=True, desc="x")
    plain = snapshot(w)
    assert "kl" not in ends[0][0] and ends[1][0]["kl"] > 0
    assert all(torch.equal(plain[k], ends[0][1][k]) for k in plain) and any(
        not torch.equal(plain[k], ends[1][1][k]) for k in plain
    )


def test_the_loss_of_a_step_typed_again(make):
    w = make(micro=3)
    nado = new_nado(w)
    nado.out.data = torch.randn(nado.out.shape, generator=torch.Generator().manual_seed(0))
    frozen, batch, total = targets(w, nado, list(range(6))), [0, 3, 7, 5], 0.0
    for i in batch:
        p, (a,) = w.rows[i]
        log_p = w.model(torch.tensor([p + a])).logits[0, len(p) - 1 : -1].log_softmax(-1)
        total += -log_p.gather(1, torch.tensor(a)[:, None]).mean().item()
        if i < 6:
            h, rate = frozen[i]
            log_w = constraint.soft_weight(*nado(h), rate.expand(len(h)), delta=w.cfg.delta, floor=w.cfg.floor)
            total += 2.0 * constraint.constraint_kl(log_p, log_w, direction="reverse").mean().item()
    row = train(w, new_stepper(w, 1), [batch], nado=nado, lam=2.0, gated=True, desc="x")[0]
    assert row["loss"] == pytest.approx(total / 4, rel=1e-4)


def test_the_method_avoids_what_plain_fine_tuning_learns(make):
    """Half of the lines say " hello": plain fine-tuning does too, the controlled model less, by the letter's
    probability."""

    def says(w):
        return sum(
            w.model(torch.tensor([token_ids(w, p)])).logits[0, -1].softmax(-1)[w.rows[1][1][0][0]].item()
            for p in ("p0:", "p1:")
        ), collect(w, "e", n=32, prompts=4).fine.mean().item()

    settings = dict(epochs=60, lr=3e-3, nado_epochs=30, nado_lr=1e-2, each=16, n_asked=4, mixed=6, tokens=7, delta=0.98)
    w = make(**settings)
    methods.fine_tune(w, desc="sft")
    plain = says(w)[1]
    w = make(**settings)
    _, turns, _ = methods.controlled(w, lam=4.0, gated=True, desc="ours")
    assert len(turns) == 2 and says(w)[1] > plain + 0.1


def test_turns_repeat_and_a_stale_one_uses_the_r_before(make):
    runs = {}
    for stale in (False, False, True):
        w = make()
        curve, turns, nado = methods.controlled(w, lam=4.0, gated=True, stale=stale, desc="x")
        runs.setdefault(stale, []).append((snapshot(w), curve, nado))
    (a, curve, _), (b, *_) = runs[False]
    assert all(torch.equal(a[k], b[k]) for k in a)
    stale = runs[True][0]
    half = len(curve) // 2
    assert [r["loss"] for r in curve[:half]] == [r["loss"] for r in stale[1][:half]], "the first iteration is the same"
    assert any(not torch.equal(a[k], stale[0][k]) for k in a)


def test_reinforcement_labels_as_many_samples_and_keeps_the_corpus(make):
    w = make(n_asked=4, epochs=1, batch=4)
    asked, count = w.oracle, []
    w = w._replace(oracle=lambda texts: count.append(len(texts)) or asked(texts))
    curve = methods.reinforced(w, weight=1.0, beta=0.1, desc="rl")
    assert sum(count) == w.cfg.iterations * w.cfg.n_asked * w.cfg.each
    assert len(curve) == 2 and curve[0]["cross-entropy"] > 0


def test_states_come_in_groups_of_about_so_many_answers(make):
    w = make(n_asked=4)
    s = collect(w, "x", n=3, prompts=2, mixed=5)
    rows, groups = hidden(w, s.rows, s.pieces), hidden(w, s.rows, s.pieces, answers=4)
    assert [n for *_, n in groups] == [6, 4, 1] and sum(
        n for *_, n in rows
    ) == 11  # two prompts of three answers, then lines
    assert torch.allclose(torch.cat([h for h, *_ in rows]), torch.cat([h for h, *_ in groups]), atol=1e-5)
    assert torch.equal(torch.cat([t for _, t, *_ in rows]), torch.cat([t for _, t, *_ in groups]))


def test_one_draw_serves_several_steps_of_reinforcement(make, monkeypatch):
    """The answers of a draw are used once each, in order, two steps a draw here, and labelled once."""
    w, g, calls, said, used = (
        make(n_asked=4, epochs=2, batch=4, rl_draw=2),
        torch.Generator().manual_seed(0),
        [],
        [],
        [],
    )
    real = methods.constraint.policy_gradient

    def labels(texts):
        calls.append(len(texts))
        said.append(torch.rand(len(texts), generator=g).round().double())
        return said[-1]

    w = w._replace(oracle=labels)
    monkeypatch.setattr(
        methods.constraint,
        "policy_gradient",
        lambda log_p, reward, start, **kw: used.append(reward) or real(log_p, reward, start, **kw),
    )
    curve = methods.reinforced(w, weight=1.0, beta=0.1, desc="rl")
    assert torch.equal(torch.cat(used).double(), 1 - torch.cat(said))
    assert (
        len(curve) == 4
        and calls == [2 * 2 * w.cfg.each] * 2
        and sum(calls) == w.cfg.iterations * w.cfg.n_asked * w.cfg.each
    )


def test_reinforcement_without_weight_is_plain_fine_tuning(make):
    a, b = make(micro=4), make(micro=4)
    methods.fine_tune(a, desc="sft")
    methods.reinforced(b, weight=0.0, beta=0.1, desc="rl")
    x, y = snapshot(a), snapshot(b)
    assert all(torch.allclose(x[k], y[k], atol=1e-6) for k in x)


def test_filtering_keeps_what_the_oracle_lets_pass():
    some = [
        *lines(4),
        forum.Line("Comment: hello Is", " yes", True, "detection"),
        forum.Line("Comment: word Is", " no", False, "detection"),
    ]
    assert clean(some, oracle) == [0, 2, 5]
    with pytest.raises(ValueError, match="filtering leaves none of 1 lines"):
        clean([lines()[1]], oracle)


def test_bad_input(make):
    with pytest.raises(ValueError, match="lambda is at least 0, given -1"):
        methods.controlled(make(), lam=-1.0, gated=True, desc="x")
    with pytest.raises(ValueError, match="iterations are 1 to the number of steps, 3, given 4"):
        slices([[0], [1], [2]], 4)
    cfg = presets.resolve("attribute_control", FEW | {"ITERATIONS": 100})
    with pytest.raises(ValueError, match=r"iterations are 1 to the number of steps, \d, given 100"):
        methods.check(cfg)
    for lams, message in (("0.5,-2", "lambda is at least 0, given -2"), ("much", "lams takes numbers, given 'much'")):
        with pytest.raises(ValueError, match=message):
            methods.check(presets.resolve("attribute_control", FEW | {"LAMS": lams}))
    w = make()
    w = w._replace(oracle=lambda texts: torch.full((len(texts),), 1.5))
    with pytest.raises(ValueError, match=r"lies in \[0, 1\], text 0 has 1.5"):
        collect(w, "x", n=2, prompts=1)
    with pytest.raises(ValueError, match="given 8 lines and 0 prompts"):
        build(w.cfg, w.model, w.tokenizer, lines=lines(), asked=[], oracle=oracle, stop_ids=[257])


def test_lines_end_as_the_template_ends_a_turn(make):
    w = make()
    again = build(w.cfg, w.model, w.tokenizer, lines=lines(), asked=["p:"], oracle=oracle, stop_ids=[3, 257])
    assert {row[1][0][-1] for row in again.rows} == {257} and again.stop == [3, 257]


def test_a_gradient_of_r_that_is_not_finite_stops_the_fit(make, monkeypatch):
    w = make()
    samples, nado = collect(w, "x", n=4, prompts=3, mixed=2), new_nado(w)
    real = auxiliary.nado_losses

    def broken(*given):
        bce, gap = real(*given)
        return bce + (bce * 0).sqrt(), gap

    monkeypatch.setattr(auxiliary, "nado_losses", broken)
    samples = samples._replace(fine=torch.tensor([1.0, 0.0] * 7))
    with pytest.raises(FloatingPointError, match="success rates, x: the gradient of .* is not finite"):
        teach(w, nado, samples, "x")

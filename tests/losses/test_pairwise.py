"""Every pairwise loss: typed again with floats, its limits, its gradient's sign, and TRL's value on the same batch."""

import math
from functools import partial

import pytest
import torch

from lib import losses
from lib.losses import pairwise

B = 5
G = torch.Generator().manual_seed(0)
PI_W, PI_L, REF_W, REF_L = (torch.randn(B, generator=G, dtype=torch.float64) * 4 - 20 for _ in range(4))
N_W, N_L = torch.tensor([3.0, 7, 2, 9, 4]).double(), torch.tensor([5.0, 2, 8, 3, 6]).double()
LENGTHS = dict(length_w=N_W, length_l=N_L)
BETA, E = 0.3, 0.1


def sig(x):
    return 1 / (1 + math.exp(-x))


def ls(x):
    return math.log(sig(x))


AGAIN = {  # name -> (function with its settings bound, the formula of one pair: u_w, u_l, token counts)
    "robust": (partial(losses.robust, label_smoothing=E), lambda u, v, n,
        m: (-(1 - E) * ls(BETA * (u - v)) + E * ls(-BETA * (u - v))) / (1 - 2 * E)),
    "hinge": (losses.hinge, lambda u, v, n, m: max(0, 1 - BETA * (u - v))),
    "ipo": (partial(losses.ipo_mean, **LENGTHS), lambda u, v, n, m: (u / n - v / m - 1 / (2 * BETA)) ** 2),
    "ipo_sum": (losses.ipo_sum, lambda u, v, n, m: (u - v - 1 / (2 * BETA)) ** 2),
    "exo_pair": (partial(losses.exo, label_smoothing=E), lambda u, v, n,
        m: sig(BETA * (u - v)) * math.log(sig(BETA * (u - v)) / (1 - E))
                 + sig(BETA * (v - u)) * math.log(sig(BETA * (v - u)) / E)),
    "nca_pair": (losses.nca, lambda u, v, n, m: -ls(BETA * u) - 0.5 * ls(-BETA * u) - 0.5 * ls(-BETA * v)),
    "bco_pair": (partial(losses.bco, shift=0.0), lambda u, v, n, m: -ls(BETA * u) - ls(-BETA * v)),
    "bco_shifted": (partial(losses.bco, shift=0.4), lambda u, v, n, m: -ls(BETA * u - 0.4) - ls(-(BETA * v - 0.4))),
    "sppo_hard": (losses.sppo_hard, lambda u, v, n, m: (u - 1 / (2 * BETA)) ** 2 + (v + 1 / (2 * BETA)) ** 2),
    "apo_zero": (losses.apo_zero, lambda u, v, n, m: 1 - sig(BETA * u) + sig(BETA * v)),
    "apo_down": (losses.apo_down, lambda u, v, n, m: sig(BETA * u) + 1 - sig(BETA * (u - v))),
    "discopop": (partial(losses.discopop, tau=0.05), lambda u, v, n,
        m: (1 - sig(BETA * (u - v) / 0.05)) * -ls(BETA * (u - v))
                 + sig(BETA * (u - v) / 0.05) * math.exp(-BETA * (u - v))),
    "sigmoid_norm": (partial(losses.sigmoid_norm, **LENGTHS), lambda u, v, n, m: -ls(BETA * (u / n - v / m))),
    "minor_dpo": (losses.minor_dpo, lambda u, v, n, m: -ls(BETA * u - BETA * max(0, v))),
    "forward_kl": (partial(losses.f_dpo, kind="forward_kl"), lambda u, v, n,
        m: -ls(BETA * (math.exp(-v) - math.exp(-u)))),
    "js": (partial(losses.f_dpo, kind="js"), lambda u, v, n, m: -ls(BETA * (ls(u) - ls(v)))),
    "alpha": (partial(losses.f_dpo, kind="alpha", alpha=0.5), lambda u, v, n,
        m: -ls(BETA * (math.exp(-u / 2) - math.exp(-v / 2)) / -0.5)),
    "modpo": (partial(losses.modpo, weight=0.5, margin=torch.full((B,), 0.7, dtype=torch.float64)), lambda u, v, n,
        m: -ls((BETA * (u - v) - 0.7) / 0.5)),
    "spo": (partial(losses.spo, earlier_w=N_W, earlier_l=N_L, multiplier=0.2), lambda u, v, n,
        m: -ls(BETA * (u - v) - 0.2 * (n - m))),
    "mixed": (partial(losses.mixed, weights=(0.8, 0.2, 0.0), shift=0.4, length_w=N_W), lambda u, v, n,
        m: -0.8 * ls(BETA * (u - v))
              + 0.2 * (-ls(BETA * u - 0.4) - ls(0.4 - BETA * v))),
}  # fmt: skip
STABLE = {"forward_kl"}  # exp of -u: these inputs reach 1e4, where the sigmoid is 0 or 1


@pytest.mark.parametrize("name", [n for n in AGAIN if n not in STABLE])
def test_typed_again(name):
    loss, formula = AGAIN[name]
    u, v = (PI_W - REF_W).tolist(), (PI_L - REF_L).tolist()
    got = loss(PI_W, PI_L, REF_W, REF_L, beta=BETA)
    want = [formula(*x) for x in zip(u, v, N_W.tolist(), N_L.tolist())]
    assert got.loss.tolist() == pytest.approx(want, rel=1e-9, abs=1e-9)
    assert not got.chosen.requires_grad and got.loss.shape == (B,)


def test_forward_kl_typed_again():
    u, v = torch.tensor([0.4], dtype=torch.float64), torch.tensor([-0.3], dtype=torch.float64)
    got = losses.f_dpo(u, v, 0 * u, 0 * v, beta=BETA, kind="forward_kl").loss.item()
    assert got == pytest.approx(AGAIN["forward_kl"][1](0.4, -0.3, 1, 1))


# without discopop: at d = 0 its blend pulls the other way
ORDERED = [
    "robust",
    "ipo_sum",
    "sppo_hard",
    "apo_zero",
    "nca_pair",
    "bco_pair",
    "sigmoid_norm",
    "exo_pair",
    "js",
    "modpo",
]


@pytest.mark.parametrize("name", ORDERED)
def test_at_the_reference_chosen_goes_up_and_rejected_down(name):
    w, l = (torch.full((B,), -20.0, dtype=torch.float64, requires_grad=True) for _ in range(2))
    AGAIN[name][0](w, l, w.detach().clone(), l.detach().clone(), beta=BETA).loss.sum().backward()
    assert (w.grad < 0).all() and (l.grad > 0).all()


def test_gradients():
    for name, (loss, _) in AGAIN.items():
        x = [(t / 8).clone().requires_grad_(True) for t in (PI_W, PI_L)]
        assert torch.autograd.gradcheck(lambda w, l, loss=loss: loss(w, l, REF_W / 8, REF_L / 8, beta=BETA).loss, x), (
            name
        )


def test_limits():
    args = (PI_W, PI_L, REF_W, REF_L)
    dpo = losses.dpo(*args, beta=BETA).loss
    one, none = torch.ones(B), torch.zeros(B)
    same = [
        losses.robust(*args, beta=BETA, label_smoothing=0.0), losses.f_dpo(*args, beta=BETA, kind="reverse_kl"),
        losses.f_dpo(*args, beta=BETA, kind="alpha", alpha=1.0),
        losses.sigmoid_norm(*args, beta=BETA, length_w=one, length_l=one),
        losses.modpo(*args, beta=BETA, weight=1.0, margin=none),
        losses.spo(*args, beta=BETA, earlier_w=N_W, earlier_l=N_L, multiplier=0.0),
        losses.mixed(*args, beta=BETA, weights=(1.0, 0.0, 0.0), shift=0.0, length_w=one),
        losses.hpo(*args, beta=BETA, gamma=0.0, tau=1.0, advantage_w=none, advantage_l=none),
    ]  # fmt: skip
    for loss in same:
        assert torch.allclose(loss.loss, dpo, atol=1e-12)
    near = losses.f_dpo(PI_W / 8, PI_L / 8, REF_W / 8, REF_L / 8, beta=BETA, kind="alpha", alpha=1.0001).loss
    assert torch.allclose(near, losses.dpo(PI_W / 8, PI_L / 8, REF_W / 8, REF_L / 8, beta=BETA).loss, atol=1e-3)
    assert torch.allclose(
        losses.ipo_mean(*args, beta=BETA, length_w=one, length_l=one).loss, losses.ipo_sum(*args, beta=BETA).loss
    )
    below = (
        PI_W,
        REF_L - 3,
        REF_W,
        REF_L,
    )  # a rejected answer already less likely than under the reference is left alone
    l = below[1].clone().requires_grad_(True)
    losses.minor_dpo(PI_W, l, REF_W, REF_L, beta=BETA).loss.sum().backward()
    assert l.grad.abs().max() == 0
    for sorted_loss in (losses.aot, losses.aot_unpaired):
        single = [
            sorted_loss(*(x[i : i + 1] for x in args), beta=BETA, label_smoothing=0.0).loss.item() for i in range(B)
        ]
        assert single == pytest.approx(dpo.tolist(), abs=1e-12)
        order = torch.randperm(B, generator=G)
        shuffled = (PI_W[order], PI_L[order], REF_W[order], REF_L[order])
        a, b = (sorted_loss(*x, beta=BETA, label_smoothing=0.1).loss.sort().values for x in (args, shuffled))
        assert torch.allclose(a, b)
    gained = losses.hpo(*args, beta=BETA, gamma=0.5, tau=2.0, advantage_w=N_W, advantage_l=N_L).loss
    want = [
        d - 0.5 * (math.exp(a / 2) * w + math.exp(b / 2) * l) / 2
        for d, a, b, w, l in zip(dpo.tolist(), N_W.tolist(), N_L.tolist(), PI_W.tolist(), PI_L.tolist())
    ]
    assert gained.tolist() == pytest.approx(want)


def test_without_a_reference():
    for i in range(B):
        w, l, n, m = (x[i].item() for x in (PI_W, PI_L, N_W, N_L))
        one = lambda f, **k: f(PI_W[i : i + 1], PI_L[i : i + 1], beta=BETA, length_w=N_W[i : i + 1], **k).loss.item()  # noqa: B023, E731
        assert one(losses.simpo, gamma=0.5, length_l=N_L[i : i + 1]) == pytest.approx(-ls(BETA * (w / n - l / m) - 0.5))
        assert one(losses.cpo, nll_weight=0.7) == pytest.approx(-ls(BETA * (w - l)) - 0.7 * w / n)
        odds = lambda a: math.exp(a) / (1 - math.exp(a))  # noqa: E731
        assert one(losses.orpo, length_l=N_L[i : i + 1]) == pytest.approx(
            -w / n - BETA * ls(math.log(odds(w / n) / odds(l / m)))
        )
    sure = losses.orpo(
        torch.tensor([-1e-7]), torch.tensor([-1e-6]), beta=0.1, length_w=torch.ones(1), length_l=torch.ones(1)
    ).loss
    assert torch.isfinite(sure).all()


def test_kto():
    u, good = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), torch.tensor([True, False, False])
    for kl in (-3.0, 0.8):
        z = max(0, kl)
        got = losses.kto(
            u, good, beta=BETA, kl=torch.tensor(kl, dtype=torch.float64), weight_good=1.5, weight_bad=0.5
        ).tolist()
        assert got == pytest.approx(
            [1.5 * (1 - sig(BETA * (0.5 - z))), 0.5 * (1 - sig(BETA * (z + 1))), 0.5 * (1 - sig(BETA * (z - 2)))]
        )
    pair = losses.kto_pair(PI_W, PI_L, REF_W, REF_L, beta=BETA).loss.tolist()
    u, v = (PI_W - REF_W).tolist(), (PI_L - REF_L).tolist()
    z_u, z_v = max(0, sum(u) / B), max(0, sum(v) / B)
    assert pair == pytest.approx([(1 - sig(BETA * (a - z_v)) + 1 - sig(BETA * (z_u - b))) / 2 for a, b in zip(u, v)])
    kl = torch.tensor(1.0, requires_grad=True)
    x = torch.zeros(1, requires_grad=True)
    losses.kto(x, torch.tensor([True]), beta=1.0, kl=kl, weight_good=1.0, weight_bad=1.0).sum().backward()
    assert kl.grad is None and x.grad is not None


def test_settings_that_are_refused():
    args = (PI_W, PI_L, REF_W, REF_L)
    for loss, message in (
        (partial(losses.robust, label_smoothing=0.5), "flip rate"),
        (partial(losses.exo, label_smoothing=0.0), "label smoothing"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(*args, beta=BETA)
    with pytest.raises(ValueError, match="one of reverse_kl, forward_kl, js, alpha"):
        losses.f_dpo(*args, beta=BETA, kind="hellinger")


TRL = {
    "sigmoid": (losses.dpo, {}), "hinge": (losses.hinge, {}), "ipo": (losses.ipo_mean, {}),
    "exo_pair": (losses.exo, {"label_smoothing": E}), "nca_pair": (losses.nca, {}),
    "robust": (losses.robust, {"label_smoothing": E}), "bco_pair": (losses.bco, {"shift": 0.0}),
    "sppo_hard": (losses.sppo_hard, {}),
    "aot": (losses.aot, {"label_smoothing": E}), "aot_unpaired": (losses.aot_unpaired, {"label_smoothing": E}),
    "apo_zero": (losses.apo_zero, {}),
    "apo_down": (losses.apo_down, {}), "discopop": (losses.discopop, {"tau": 0.05}),
    "sigmoid_norm": (losses.sigmoid_norm, {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def trl(tmp_path_factory):
    """(TRL's loss by name, ours by function) on the same pairs of the same tiny policy and reference."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from lib.engine import models
    from lib.scoring.likelihood import completion_logprobs

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset  # token ids as they are

    policy, reference = (
        models.load("tiny-random", dtype=torch.float32)[0] if s == 0 else models.tiny_random(s).requires_grad_(False)
        for s in (0, 5)
    )
    tokenizer = models.byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    x, w, l = (
        [[1, 2, 3], [8, 9], [7], [4, 4]],
        [[4, 5, 257], [10], [6, 5], [9, 8, 7, 6]],
        [[4, 9], [11, 12, 13, 14], [5, 6], [1]],
    )
    folder = str(tmp_path_factory.mktemp("trl"))
    arguments = DPOConfig(
        output_dir=folder, per_device_train_batch_size=4, beta=BETA, label_smoothing=E, bf16=False, use_cpu=True,
        report_to="none",
        gradient_checkpointing=False, max_length=None, remove_unused_columns=False, dataloader_pin_memory=False,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt_ids": a, "chosen_ids": b, "rejected_ids": c} for a, b, c in zip(x, w, l)])
    trainer = Trainer(model=policy, ref_model=reference, args=arguments, train_dataset=rows, processing_class=tokenizer)
    batch = trainer.data_collator(list(rows))

    def theirs(name, **attributes):
        trainer.loss_types, trainer.loss_weights = [name], [1.0]
        for k, v in ({"f_divergence_type": "reverse_kl"} | attributes).items():
            setattr(trainer, k, v)
        with torch.no_grad():
            return trainer.compute_loss(policy, batch).item()

    values = [t for m in (policy, reference) for t in completion_logprobs(m, x, w, l, batch=4).unbind(1)]
    counts = dict(length_w=torch.tensor([float(len(b)) for b in w]), length_l=torch.tensor([float(len(c)) for c in l]))

    def ours(loss, **settings):
        wants = loss.__code__.co_varnames[: loss.__code__.co_argcount + loss.__code__.co_kwonlyargcount]
        return (
            loss(*values, beta=BETA, **settings, **{k: v for k, v in counts.items() if k in wants}).loss.mean().item()
        )

    return theirs, ours


@pytest.mark.parametrize("name", TRL)
def test_trl_gives_the_same_value(trl, name):
    theirs, ours = trl
    loss, settings = TRL[name]
    assert ours(loss, **settings) == pytest.approx(theirs(name), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind, attributes", [
    ("forward_kl", {"f_divergence_type": "forward_kl"}), ("js", {"f_divergence_type": "js_divergence"}),
    ("alpha", {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5}),
])  # fmt: skip
def test_trl_gives_the_same_f_divergence(trl, kind, attributes):
    theirs, ours = trl
    assert ours(losses.f_dpo, kind=kind, alpha=0.5) == pytest.approx(
        theirs("sigmoid", **attributes), rel=1e-3, abs=1e-4
    )


def test_every_loss_of_trl_has_its_counterpart():
    """Beyond those above TRL has `sft`, which is `objectives.supervised`."""
    from trl import DPOConfig

    help_text = DPOConfig.__dataclass_fields__["loss_type"].metadata["help"]
    named = {w.strip("`'\", .") for w in help_text.replace("[", " ").replace("]", " ").split()}
    assert set(TRL) <= named | {"sigmoid"} and len(TRL) == 14


def test_rewards_are_told_without_a_gradient():
    w, l = (t.clone().requires_grad_(True) for t in (PI_W, PI_L))
    told = [
        (losses.simpo(w, l, beta=BETA, gamma=0.5, **LENGTHS), PI_W * BETA / N_W, PI_L * BETA / N_L),
        (losses.cpo(w, l, beta=BETA, nll_weight=0.7, length_w=N_W), BETA * PI_W, BETA * PI_L),
        (losses.orpo(w, l, beta=BETA, **LENGTHS), BETA * PI_W / N_W, BETA * PI_L / N_L),
        (losses.kto_pair(w, l, REF_W, REF_L, beta=BETA), BETA * (PI_W - REF_W), BETA * (PI_L - REF_L)),
    ]
    for got, chosen, rejected in told:
        assert got.loss.requires_grad and not got.chosen.requires_grad and not got.rejected.requires_grad
        assert torch.allclose(got.chosen, chosen) and torch.allclose(got.rejected, rejected)


def test_limits_of_settings():
    args = (PI_W, PI_L, REF_W, REF_L)
    for wrong in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match="label smoothing in"):
            losses.exo(*args, beta=BETA, label_smoothing=wrong)
    for kind, alpha in (("alpha", None), ("hellinger", 0.5)):
        with pytest.raises(ValueError, match="an f-divergence is one of"):
            losses.f_dpo(*args, beta=BETA, kind=kind, alpha=alpha)


def test_exponentials_are_capped_at_half_the_range():
    for dtype in (torch.float32, torch.float64):
        cap = math.log(torch.finfo(dtype).max) / 2
        got = pairwise.capped_exp(torch.tensor([cap - 1, cap + 1, 10 * cap], dtype=dtype)).log()
        assert got.tolist() == pytest.approx([cap - 1, cap, cap], rel=1e-6)


def test_odds_near_certainty_and_far_from_it():
    """log(1 - e^x) against float64's own, on both sides of where the formula changes."""
    from lib.losses.reference_free import _log1mexp

    x = torch.tensor([-1e-6, -1e-3, -0.1, -0.69, -0.7, -1.0, -1.5, -3.0, -30.0], dtype=torch.float64)
    assert _log1mexp(x).tolist() == pytest.approx([math.log(-math.expm1(v)) for v in x.tolist()], rel=1e-12)
    assert _log1mexp(x.float()).tolist() == pytest.approx([math.log(-math.expm1(v)) for v in x.tolist()], rel=1e-6)

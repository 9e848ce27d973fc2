import math
from functools import partial

import pytest
import torch

from lib import data, losses
from lib.engine import objectives
from lib.scoring.likelihood import completion_logprobs

P = [
    data.Pair("a", [1, 2, 3], [4, 5, 257], [4, 9], 1),
    data.Pair("b", [8, 9], [10], [11, 12, 13, 14], 0),
    data.Pair("c", [7], [6, 5], [5, 6], 0),
]
X, W, L = [p.prompt for p in P], [p.chosen for p in P], [p.rejected for p in P]


def plain(model, x, y):
    lp = model(torch.tensor([[*x, *y]])).logits[0].log_softmax(-1)
    return torch.stack([lp[len(x) - 1 + t, v] for t, v in enumerate(y)])


def references(model):
    return dict(zip(("ref_w", "ref_l"), completion_logprobs(model, X, W, L, batch=2).unbind(1)))


def test_at_the_reference_the_loss_is_log_2(tiny_model):
    """Exactly, where the reference was scored in the same batches; it was computed by the same code."""
    same = dict(zip(("ref_w", "ref_l"), completion_logprobs(tiny_model, X, W, L, batch=1).unbind(1)))
    objective = objectives.preference(tiny_model, P, partial(losses.dpo, beta=0.5), **same)
    for i in range(3):
        total, logged = objective([i])
        assert total.item() == torch.tensor(2.0).log().item() and logged["margin"] == 0


def test_preference_typed_again(tiny_model):
    ref = {"ref_w": torch.tensor([-5.0, -6.0, -7.0]), "ref_l": torch.tensor([-8.0, -3.0, -7.0])}
    total, logged = objectives.preference(tiny_model, P, partial(losses.dpo, beta=0.5), **ref)([2, 0])
    want = 0.0
    for i in (2, 0):
        h = 0.5 * (
            plain(tiny_model, X[i], W[i]).sum()
            - ref["ref_w"][i]
            - plain(tiny_model, X[i], L[i]).sum()
            + ref["ref_l"][i]
        )
        want -= torch.nn.functional.logsigmoid(h).item()
    assert total.item() == pytest.approx(want, abs=1e-4)
    assert logged["chosen logprob"] == pytest.approx(
        sum(plain(tiny_model, X[i], W[i]).sum().item() for i in (2, 0)), abs=1e-3
    )


def test_supervised_typed_again(tiny_model):
    total, _ = objectives.supervised(tiny_model, X, W)([0, 1, 2])
    assert total.item() == pytest.approx(-sum(plain(tiny_model, x, w).mean().item() for x, w in zip(X, W)), abs=1e-4)


def test_distillation_typed_again_and_zero_on_oneself(tiny_model):
    from lib.engine import models

    teacher = models.tiny_random(seed=5).requires_grad_(False)
    with torch.no_grad():  # the head is shared, as it is when only block linears are quantized
        teacher.model.embed_tokens.weight.copy_(tiny_model.model.embed_tokens.weight)
    states = objectives.teacher_states(teacher, X, W, batch=2)
    for tau in (None, 2.0):
        total, _ = objectives.distillation(tiny_model, X, W, states, tau=tau)([0, 1, 2])
        want = 0.0
        for x, w in zip(X, W):
            ids = torch.tensor([[*x, *w]])
            t, s = (m(ids).logits[0, len(x) - 1 : -1].log_softmax(-1) for m in (teacher, tiny_model))
            kl = (t.exp() * (t - s)).sum(-1)
            nll = -t.gather(-1, torch.tensor(w)[:, None])[:, 0]
            weight = torch.full_like(kl, 1 / len(w)) if tau is None else (nll / tau).softmax(0)
            want += (weight * kl).sum().item()
        assert total.item() == pytest.approx(want, abs=1e-3) and want > 0.1
    own = objectives.teacher_states(tiny_model, X, W, batch=3)
    assert objectives.distillation(tiny_model, X, W, own, tau=None)([0, 1, 2])[0].item() == pytest.approx(0, abs=1e-5)


def test_gradients_reach_the_weights_chosen_up_rejected_down(tiny_model):
    layer = tiny_model.model.layers[1].mlp.down_proj.weight.requires_grad_(True)
    objective = objectives.preference(tiny_model, P, partial(losses.dpo, beta=0.5), **references(tiny_model))
    before = completion_logprobs(tiny_model, X, W, L, batch=3)
    objective([0, 1, 2])[0].backward()
    with torch.no_grad():
        layer -= 1e-3 * layer.grad / layer.grad.norm()
    after = completion_logprobs(tiny_model, X, W, L, batch=3)
    assert ((after - before) @ torch.tensor([1.0, -1.0])).sum() > 0


def test_objectives_together_are_their_weighted_sum():
    one = lambda i: (torch.tensor(2.0 * len(i)), {"kl": 1.0})  # noqa: E731
    other = lambda i: (torch.tensor(0.5), {"margin": 3.0})  # noqa: E731
    total, logged = objectives.together((1.0, one), (4.0, other))([0, 1, 2])
    assert total.item() == 8.0 and logged == {"kl": 1.0, "margin": 3.0}


def test_trl_computes_the_same_loss_and_gradient(tiny_model, byte_tokenizer, tmp_path):
    """DPOTrainer on the same three pairs, in float32, against a reference that is not the policy."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from lib.engine import models

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset  # token ids as they are

    reference = models.tiny_random(seed=5).requires_grad_(False)
    byte_tokenizer.pad_token = byte_tokenizer.eos_token
    layer = tiny_model.model.layers[1].mlp.down_proj.weight.requires_grad_(True)
    objective = objectives.preference(tiny_model, P, partial(losses.dpo, beta=0.3), **references(reference))
    total, _ = objective([0, 1, 2])
    (ours,) = torch.autograd.grad(total / 3, layer)

    arguments = DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=3, beta=0.3, bf16=False, use_cpu=True, report_to="none",
        gradient_checkpointing=False, max_length=None, remove_unused_columns=False, dataloader_pin_memory=False,
    )  # fmt: skip
    rows = [{"prompt_ids": p.prompt, "chosen_ids": p.chosen, "rejected_ids": p.rejected} for p in P]
    trainer = Trainer(
        model=tiny_model,
        ref_model=reference,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=byte_tokenizer,
    )
    loss = trainer.compute_loss(tiny_model, next(iter(trainer.get_train_dataloader())))
    (theirs,) = torch.autograd.grad(loss, layer)
    assert (total / 3).item() == pytest.approx(loss.item(), abs=1e-4) and abs(loss.item() - math.log(2)) > 0.01
    assert torch.allclose(ours, theirs, atol=1e-3 * theirs.abs().max().item())

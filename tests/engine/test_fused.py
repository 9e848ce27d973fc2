"""RMSNorm in one step: equal to the models' own to the bit, its gradient that of autograd."""

import copy

import pytest
import torch
from torch import nn

from lib.engine import fused, memory, models

pytestmark = pytest.mark.formula


class Own(nn.Module):
    """As transformers write it."""

    def __init__(self, weight, eps=1e-5):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(weight), eps

    def forward(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(x.dtype)


def test_by_hand():
    x, w = torch.tensor([[3.0, 4.0]], dtype=torch.float64), torch.tensor([2.0, 1.0], dtype=torch.float64)
    got = fused.RMSNorm.apply(x, w, 0.0)  # sqrt((9 + 16) / 2) = 3.5355
    assert torch.allclose(got, torch.tensor([[6 / 12.5**0.5, 4 / 12.5**0.5]], dtype=torch.float64), rtol=1e-12)


def test_gradients_are_those_of_finite_differences():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 8, dtype=torch.float64, generator=g).requires_grad_()
    w = torch.randn(8, dtype=torch.float64, generator=g).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: fused.RMSNorm.apply(x, w, 1e-5), (x, w))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_it_is_the_modules_own_norm(dtype, tolerance):
    g = torch.Generator().manual_seed(1)
    own = Own(torch.randn(16, generator=g).to(dtype))
    one = copy.deepcopy(own)
    assert fused.use(one) == 1
    xs = [torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_() for _ in "ab"]
    outs = [m(x) for m, x in zip((own, one), xs)]
    assert torch.equal(*outs)
    weight = torch.randn(outs[0].shape, generator=g).to(dtype)
    for o in outs:
        (o * weight).sum().backward()
    for a, b in ((xs[0].grad, xs[1].grad), (own.weight.grad, one.weight.grad)):
        assert (a - b).float().norm() <= tolerance * a.float().norm()


def test_a_norm_that_computes_something_else_stays_as_it_is():
    class Shifted(Own):  # Gemma's
        def forward(self, x):
            return super().forward(x) + x * 0.5

    model = nn.ModuleList([Own(torch.ones(4)), Shifted(torch.ones(4))])
    assert fused.use(model) == 1 and "forward" not in model[1].__dict__


def test_every_norm_of_a_llama_is_found_and_follows_a_copy():
    model = models.tiny_random()
    assert fused.use(model) == 2 * 4 + 1
    other = copy.deepcopy(model)
    other.model.norm.weight.data.mul_(2)
    x = torch.randn(2, 3, 64)
    assert torch.allclose(other.model.norm(x), 2 * model.model.norm(x))
    fused.remove(other)
    assert not any("forward" in m.__dict__ for m in other.modules()) and "forward" in model.model.norm.__dict__


def test_a_step_keeps_less_than_autograd_would():
    """Shapes alone: what a norm keeps between forward and backward beside its input is a number a row."""

    def norms(own: bool):
        x = torch.zeros(64, 512, dtype=torch.bfloat16).requires_grad_()
        norm = Own(torch.zeros(512, dtype=torch.bfloat16))
        norm.requires_grad_(False)
        hold = [norm(x) if own else fused.RMSNorm.apply(x, norm.weight, 1e-5) for _ in range(8)]
        yield "kept"
        del hold

    kept = {own: memory.peaks(lambda own=own: norms(own))["kept"].device for own in (True, False)}
    assert kept[False] < 0.5 * kept[True]

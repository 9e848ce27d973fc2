"""Weights laid out beforehand: the same products, and nothing left behind."""

import pytest
import torch

from lib.engine import generation, models, prepacked
from lib.engine.head import Head, head_of

pytestmark = pytest.mark.formula

needs = pytest.mark.skipif(
    not prepacked.can(torch.zeros(2, 2, dtype=torch.bfloat16)), reason="this processor has no layout for bfloat16"
)


@pytest.fixture(scope="module")
def model():
    return models.load(models.TINY, dtype=torch.bfloat16)[0]


@needs
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_the_product_is_the_product(rows):
    g = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(*s, generator=g).bfloat16() for s in ((rows, 48), (80, 48), (80,)))
    want = x.double() @ w.double().T + b.double()
    got = prepacked.product(w, b, 16)(x)  # laid out for another number of rows
    assert got.shape == want.shape and (got.double() - want).abs().max() <= 2**-7 * want.abs().max()
    assert torch.allclose(prepacked.product(w, None, 16)(x[None]).double()[0] + b.double(), want, atol=0.2)


@needs
def test_inside_every_linear_is_laid_out_and_outside_none(model):
    linears = [m for m in model.modules() if type(m) is torch.nn.Linear and m is not model.get_output_embeddings()]
    with prepacked.prepacked(model, 4, products=prepacked.PAYS):
        assert all("forward" in m.__dict__ for m in linears)
    assert not any("forward" in m.__dict__ for m in linears)
    with pytest.raises(RuntimeError, match="on purpose"), prepacked.prepacked(model, 4, products=10**6):
        raise RuntimeError("on purpose")
    assert not any("forward" in m.__dict__ for m in linears)


def test_few_products_other_dtypes_and_other_heads_stay_as_they_are(model):
    with prepacked.prepacked(model, 4, products=prepacked.PAYS - 1):
        assert not any("forward" in m.__dict__ for m in model.modules() if type(m) is torch.nn.Linear)
    wide = models.tiny_random()
    with prepacked.prepacked(wide, 4, products=10**6):
        assert not any("forward" in m.__dict__ for m in wide.modules() if type(m) is torch.nn.Linear)
    for head in (head_of(wide), Head(head_of(model).weight, scale=0.5)):
        assert prepacked.logits(head, 4, products=10**6) == head.logits


@needs
def test_answers_are_those_of_plain_products(model, monkeypatch):
    prompts = [[1, 2, 3], [4, 5, 6, 7]]
    ask = lambda: generation.generate(model, prompts, max_new_tokens=40, stop_ids=[], batch=2)  # noqa: E731
    got = ask()
    monkeypatch.setattr(prepacked, "PAYS", 10**9)
    want = ask()
    for a, b in zip(got, want):
        same = next((i for i, (x, y) in enumerate(zip(a.tokens, b.tokens)) if x != y), len(a.tokens))
        assert same >= 10  # later a tie may be broken by rounding
        assert torch.allclose(torch.tensor(a.logprobs[:same]), torch.tensor(b.logprobs[:same]), atol=0.05)


def test_one_process_s_rows_are_not_laid_out():
    class Rows(torch.Tensor):
        to_local = None

    whole = torch.zeros(4, 4, dtype=torch.bfloat16)
    assert not prepacked.can(whole.as_subclass(Rows))

"""Every architecture that can be built tiny: scored and sampled as its own logits say, or refused in one sentence."""

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lib import scoring
from lib.engine import architecture, generation
from tests.engine import zoo

PROMPTS, FIRST, SECOND = [[5, 6, 7, 8, 9, 10, 11], [20, 21]], [[30, 31, 32, 33, 34, 35], [40]], [[50], [60, 61, 62]]


def own(model, prompt, answer):
    """log p(answer | prompt) by the model's own forward on one plain sequence."""
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0].float().log_softmax(-1)
    return sum(logp[len(prompt) - 1 + i, k].item() for i, k in enumerate(answer))


def looked_at(kind):
    """ "accepted", "refused" or "not built" for this kind of model; AssertionError if it is accepted and wrong."""
    try:
        model = zoo.build(kind)
    except Exception:  # a kind that needs more than a tiny configuration, or another package
        return "not built"
    try:
        architecture.checked(model)
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 500, kind
        return "refused"
    got = scoring.completion_logprobs(model, PROMPTS, FIRST, SECOND, batch=2)
    turned = scoring.completion_logprobs(model, PROMPTS, SECOND, FIRST, batch=1).flip(1)
    done = generation.generate(
        model,
        PROMPTS,
        max_new_tokens=4,
        sampling=generation.Sampling(1.0, torch.Generator().manual_seed(0)),
        stop_ids=(),
        batch=2,
    )
    want = torch.tensor([[own(model, p, a), own(model, p, b)] for p, a, b in zip(PROMPTS, FIRST, SECOND)])
    assert torch.allclose(got, want, atol=5e-3, rtol=1e-3) and torch.allclose(turned, want, atol=5e-3, rtol=1e-3), kind
    for p, c in zip(PROMPTS, done):
        assert sum(c.logprobs) == pytest.approx(own(model, p, c.tokens), abs=5e-3, rel=1e-3), kind
    return "accepted"


@pytest.mark.parametrize(
    "kind", ["phi", "cohere", "granite", "gemma2", "gemma3_text", "mistral", "gptj", "bloom", "mpt"]
)
def test_known_transforms_windows_and_old_attention(kind):
    assert looked_at(kind) in ("accepted", "refused", "not built")
    if kind in ("phi", "cohere", "granite", "gemma2", "mistral"):
        assert looked_at(kind) == "accepted"


@pytest.mark.slow
def test_every_architecture_that_can_be_built_tiny():
    found = {}
    for kind in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        found.setdefault(looked_at(kind), []).append(kind)
    assert len(found["accepted"]) >= 100, {k: len(v) for k, v in found.items()}

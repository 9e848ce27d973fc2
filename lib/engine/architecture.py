"""Which models are scored and sampled right here: one made-up row compared with the model's own logits, at load.

Branches of a prompt go through one forward (`logprobs.pack`), candidates through one cache (`generation`), and logits
are formed from hidden states (`head.Head`). Whether an architecture allows that is not looked up but tried, against
its own forward in eager attention, one plain sequence a branch. Recurrent states, convolutions and biases by distance
do not: such a model reads every branch in a row of its own. What is wrong even then is refused.
"""

from __future__ import annotations

import copy
import hashlib
from contextlib import contextmanager

import torch
from torch import Tensor

from lib.engine import attention, fused
from lib.engine.head import head_of
from lib.engine.logprobs import hidden_states, pack

PROMPT, LONG, SHORT, NEW = 6, 5, 3, 3  # tokens of the made-up row: prompt, its two branches, and what is sampled
WINDOW = 4  # any longer window is that short while we look, so that a short row is longer than it
WINDOWS = ("sliding_window", "attention_chunk_size")
SMALL = 20_000_000  # weights up to which a model is looked at in float32
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.03}  # of the logits' spread
COARSE = 0.1  # bfloat16: thirty layers round by 2 to 3 %, another branch or a missing scale is of the order of 1

_known: dict[str, bool] = {}  # what was found, by configuration and dtype: a tiny model is loaded again and again


def checked(model):
    """`model`, with our attention if packed rows and sampling agree with its own logits, else with its own attention
    and `shares_prompt` False: each branch in a row of its own.

    ValueError in one sentence, naming the architecture, if it agrees in neither way.
    """
    key = hashlib.sha256(f"{type(model)} {model.config.to_json_string()} {model.dtype}".encode()).hexdigest()
    if key not in _known:
        _known[key] = _shares(model)
    fused.use(model)
    return _use(model, _known[key])


def _use(model, shares: bool):
    if shares:
        attention.use(model)
    elif model._can_set_attn_implementation():
        model.set_attn_implementation("eager")
    model.shares_prompt = shares
    return model


@torch.inference_mode()
def _shares(model) -> bool:
    name = attention.name_of(model)
    if not hasattr(model.config, "vocab_size") or getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"{name} is no plain language model (its configuration has no vocabulary of its own)")
    head_of(model)
    weights = sum(p.numel() for p in model.parameters())
    kept = getattr(model, "hf_quantizer", None) is not None  # in few bits, and so only ever what it is
    if model.dtype in (torch.float16, torch.bfloat16) and weights <= SMALL and not kept:
        model = copy.deepcopy(model).float()
    limit = TOLERANCE.get(model.dtype, COARSE)
    training, trouble = model.training, ""
    model.eval()
    with _short_windows(model.config):
        try:
            _use(model, False)
            prompt, branches = _row(model)
            truth = [_own(model, prompt, b) for b in branches]
        except Exception as error:  # whatever a foreign model raises: its own forward is not one of plain sequences
            raise ValueError(f"{name} does not run on a plain sequence of tokens: {_first_line(error)}") from error
        for shares in (True, False):
            try:
                gap = max(_gaps(_use(model, shares), prompt, branches, truth))
            except Exception as error:  # as above: then it does not share
                trouble = _first_line(error)
                continue
            if gap <= limit:
                model.train(training)
                return shares
            trouble = f"they are off by {gap:.2g} of their spread"
    raise ValueError(f"{name} is not supported: log-probabilities would not be those of its own logits ({trouble})")


def _row(model) -> tuple[list[int], list[list[int]]]:
    """A prompt and two branches of different length, of ids without a special meaning."""
    config = model.config
    special = {v for k, v in config.to_dict().items() if k.endswith(("token_id", "token_index")) and isinstance(v, int)}
    g = torch.Generator().manual_seed(0)
    ids = [i for i in torch.randperm(config.vocab_size, generator=g)[:64].tolist() if i not in special] or [0]
    need = PROMPT + LONG + SHORT
    ids = (ids * need)[:need]
    return ids[:PROMPT], [ids[PROMPT : PROMPT + LONG], ids[PROMPT + LONG :]]


def _own(model, prompt, branch) -> Tensor:
    """log p over the vocabulary where each token of the branch is predicted, (T, V), by the model's own forward."""
    ids = torch.tensor([[*prompt, *branch]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _gaps(model, prompt, branches, truth) -> list[float]:
    """Root mean square differences to the truth as a share of the logits' spread: of each branch in both orders, and of
    what sampling reports."""
    from lib.engine.generation import Sampling, generate

    head, out = head_of(model), []
    for order in ([0, 1], [1, 0]):
        packed = pack([(prompt, [branches[k] for k in order])]).to(model.device)
        logits = head.logits(hidden_states(model, packed))
        got = logits.to(truth[0].dtype).log_softmax(-1).split([len(branches[k]) for k in order])
        out += [_gap(a, truth[k]) for a, k in zip(got, order)]
    g = torch.Generator().manual_seed(0)
    done = generate(
        model, [prompt], max_new_tokens=NEW, stop_ids=(), batch=1, sampling=Sampling(1.0, g, n=2)
    )  # fmt: skip
    shares = model.shares_prompt
    _use(model, False)
    for c in done:
        want = _own(model, prompt, c.tokens)
        at = want.gather(-1, torch.tensor(c.tokens, device=want.device)[:, None])[:, 0]
        error = (torch.tensor(c.logprobs, device=want.device) - at).square().mean().sqrt()
        out.append((error / _spread(want)).item())
    _use(model, shares)
    return [float("inf") if x != x else x for x in out]


def _gap(got: Tensor, want: Tensor) -> float:
    return ((got - want).square().mean(-1).sqrt().max() / _spread(want)).item()


def _spread(log_p: Tensor) -> Tensor:
    return log_p.std(-1).mean().clamp(min=1e-2)


@contextmanager
def _short_windows(config):
    """Windows and chunks of WINDOW positions for a while: masks read the configuration at every forward."""
    configs = {id(c): c for c in (config, config.get_text_config(decoder=True))}.values()
    kept = [(c, k, c.__dict__[k]) for c in configs for k in WINDOWS if isinstance(c.__dict__.get(k), int)]
    for c, k, v in kept:
        setattr(c, k, min(v, WINDOW))
    try:
        yield
    finally:
        for c, k, v in kept:
            setattr(c, k, v)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error).strip() else 'no message'}"

"""Steering away from an attribute: the closest distribution that satisfies a constraint, token by token, and the losses
around it.

C(x, y) in {0, 1}: 1 if an answer is fine. R(prefix) = Pr[C = 1 | prefix] when the model goes on by itself, its success
rate. A model of R for every next token (NADO, arXiv 2205.14219) turns the constraint E[C] >= delta into a target q for
every next token, and the distance to q is a closed form over the vocabulary (arXiv 2410.05559). M positions, V
vocabulary, B answers; logarithms throughout, `log_not` is log(1 - R).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIRECTIONS = ("reverse", "forward")
STYLES = ("nado", "dinado")
ROWS = 8  # positions whose vocabulary fits into a core's cache


def soft_weight(log_r: Tensor, log_not: Tensor, success: Tensor, *, delta: float, floor: float) -> Tensor:
    """log w of every next token, (M, V): delta R / R(x) + (1 - delta) (1 - R) / (1 - R(x)); 0 where the prompt's R(x) =
    `success` (M,) is already delta.

    delta 1 is the hard constraint, R / R(x). R is kept above `floor`: where every token is hopeless, none is preferred.
    Section 1.5.
    """
    if not 0 < delta <= 1:
        raise ValueError(f"delta lies in (0, 1], given {delta}")
    if not 0 <= floor < 1:
        raise ValueError(f"floor lies in [0, 1), given {floor}")
    x = success.to(log_r.dtype)[..., None].clamp(min=torch.finfo(log_r.dtype).tiny)
    r = log_r.clamp(min=math.log(floor)) if floor else log_r
    w = r - x.log()
    if delta < 1:
        w = torch.logaddexp(
            w + math.log(delta), log_not - (1 - x).clamp(min=torch.finfo(log_r.dtype).eps).log() + math.log(1 - delta)
        )
    return w.masked_fill(x >= delta, 0.0) if delta < 1 else w


def steered(log_p: Tensor, log_w: Tensor) -> Tensor:
    """log q of every next token, (M, V): p w renormalised; p itself where every w is 0. With the exact R the normaliser
    is R(prefix). NADO."""
    z = log_p + log_w
    return torch.where(z.amax(-1, keepdim=True) == -torch.inf, log_p, z).log_softmax(-1)


def constraint_kl(log_p: Tensor, log_w: Tensor, *, direction: str) -> Tensor:
    """Distance (M,) of p to its closest distribution q that satisfies the constraint: KL(p || sg q), "reverse", the
    paper's, or KL(sg q || p), "forward".

    q is a target: no gradient enters it, neither through R nor through the p inside it.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is one of {', '.join(DIRECTIONS)}, given {direction!r}")
    return _distance(log_p, steered(log_p.detach(), log_w.detach()), direction)


def _distance(log_p: Tensor, log_q: Tensor, direction: str) -> Tensor:
    log_q, log_p = log_q.clamp(min=-1e4), log_p.clamp(min=-1e4)  # 0 log 0 is 0
    return (
        (log_p.exp() * (log_p - log_q)).sum(-1) if direction == "reverse" else (log_q.exp() * (log_q - log_p)).sum(-1)
    )


class _HeadKL(torch.autograd.Function):
    """`constraint_kl` from hidden states and a frozen head. d/dlogits: p (a - KL), a = log p - log q, or p - q.

    Products a chunk at a time, all that follows a few rows at a time, which stay in cache: three times faster on a CPU.
    """

    @staticmethod
    def forward(ctx, hidden, head, log_w, direction, chunk):
        wide = torch.promote_types(hidden.dtype, torch.float32)
        out = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        jacobian, rows = (
            torch.empty_like(hidden) if hidden.requires_grad else None,
            ROWS if hidden.device.type == "cpu" else chunk,
        )
        for i in range(0, len(hidden), chunk):
            s = slice(i, i + chunk)
            logits, w = _product(hidden[s], head), log_w(s)
            grad = logits if isinstance(head, Tensor) else torch.empty_like(logits)  # a cap's slope needs the logits
            for j in range(0, len(logits), rows):
                r = slice(j, j + rows)
                log_p = logits[r].to(wide).log_softmax(-1)
                log_q = steered(log_p, w[r])
                out[s][r] = kl = _distance(log_p, log_q, direction)
                if jacobian is not None:
                    p = log_p.exp()
                    grad[r] = (
                        p.mul_(log_p.sub_(log_q).sub_(kl[:, None])) if direction == "reverse" else p.sub_(log_q.exp_())
                    )
            if jacobian is not None:
                jacobian[s] = grad.to(head.dtype) @ head if isinstance(head, Tensor) else head.pull(grad, logits)
        ctx.save_for_backward(jacobian)
        return out

    @staticmethod
    def backward(ctx, grad):
        (jacobian,) = ctx.saved_tensors
        return (grad[:, None] * jacobian.to(grad.dtype)).to(jacobian.dtype), None, None, None, None


def _product(hidden: Tensor, head) -> Tensor:
    return hidden @ head.T if isinstance(head, Tensor) else head.logits(hidden)


def head_kl(hidden: Tensor, head, log_w: Callable[[slice], Tensor], *, direction: str, chunk: int = 128) -> Tensor:
    """`constraint_kl` (M,) of the next-token distributions of hidden states (M, D) under a frozen head: its weight
    (V, D), or a record whose `logits(hidden)` and `pull(gradient, logits)` are the product and its way back
    (`engine.head`).

    log_w gives (m, V) for a slice of M, or what gives a slice of those m rows when it is asked (`Nado.weights`).
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is one of {', '.join(DIRECTIONS)}, given {direction!r}")
    return _HeadKL.apply(hidden, head, log_w, direction, chunk)


def bernoulli_kl(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """KL between Bernoullis given as (log of the probability, log of one minus it)."""
    return a[0].exp() * (a[0] - b[0]) + a[1].exp() * (a[1] - b[1])


# ---- the auxiliary model


class Nado(nn.Module):
    """R of every next token from a model's hidden state: a few residual layers, then a product with the (frozen) token
    embeddings.

    "nado": R = sigma(E f(h) + v(h)). "dinado": log R = log sigma(v(h)) + s - max s, s = log softmax(E f(h)), so that R
    never exceeds sigma(v).
    f and v start at zero: R = 1/2 everywhere and q = p. Sources: arXiv 2205.14219, 2306.11825 and their code.
    """

    def __init__(self, embeddings: Tensor, layers: int, *, generator: torch.Generator, style: str = "nado"):
        super().__init__()
        if style not in STYLES:
            raise ValueError(f"style is one of {', '.join(STYLES)}, given {style!r}")
        self.style, self.embeddings, dim = (
            style,
            [embeddings],
            embeddings.shape[1],
        )  # in a list: not a parameter of this module
        self.up = nn.ParameterList(torch.randn(2 * dim, dim, generator=generator) / dim**0.5 for _ in range(layers))
        self.down = nn.ParameterList(torch.zeros(dim, 2 * dim) for _ in range(layers))
        self.out, self.value = nn.Parameter(torch.zeros(dim, dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, hidden: Tensor, target: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(log R, log(1 - R)) of every next token, (M, V), or of `target` (M,) only, from hidden states (M, D); at
        least float32."""
        (e,), (f, v) = self.embeddings, self._read(hidden)
        if self.style == "nado":
            z = v + (
                self._logits(f).to(v.dtype) if target is None else (f * e[target].to(f.dtype)).sum(-1, keepdim=True)
            )
            z = z if target is None else z[..., 0]
            return F.logsigmoid(z), F.logsigmoid(-z)
        s = self._logits(f).to(v.dtype).log_softmax(-1)
        log_r = F.logsigmoid(v) + s - s.amax(-1, keepdim=True)
        log_r = log_r if target is None else log_r.gather(-1, target[..., None])[..., 0]
        return log_r, torch.log(-torch.expm1(log_r.clamp(max=-1e-7)))

    def _read(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """f(h) (M, D) and v(h) (M, 1)."""
        x = F.layer_norm(hidden.to(self.value.dtype), hidden.shape[-1:])
        for up, down in zip(self.up, self.down):
            x = x + F.gelu(F.layer_norm(x, x.shape[-1:]) @ up.T) @ down.T
        return x @ self.out.T, (x @ self.value)[..., None]

    def _logits(self, f: Tensor) -> Tensor:
        return f.to(self.embeddings[0].dtype) @ self.embeddings[0].T

    def log_success(self, hidden: Tensor) -> Tensor:
        """log R (M, V) alone."""
        if self.style != "nado":
            return self(hidden)[0]
        f, v = self._read(hidden)
        return F.logsigmoid(self._logits(f).to(v.dtype).add_(v))

    def weights(self, hidden: Tensor, success: Tensor, *, delta: float, floor: float):
        """`soft_weight` (M, V) of this R, for "nado" with rows that are computed when a slice of them is taken. No
        gradient."""
        with torch.no_grad():
            if self.style != "nado":
                log_r, log_not = self(hidden)
                return soft_weight(log_r, log_not, success, delta=delta, floor=floor)
            f, v = self._read(hidden)
            return _Weights(self._logits(f), v, success.to(v.dtype)[:, None], delta, floor)

    def expected(self, hidden: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
        """`expected_success` (M,) of this R under next-token log-probabilities (M, V), which carry no gradient; for
        "nado" without a logarithm of every token: most of what training R costs."""
        if self.style != "nado":
            return expected_success(log_p, self(hidden))
        f, v = self._read(hidden)
        e, n = _Mixed.apply(v + self._logits(f).to(v.dtype), log_p)
        tiny = torch.finfo(e.dtype).tiny
        return e.clamp(min=tiny).log(), n.clamp(min=tiny).log()


class _Weights:
    """Rows of `soft_weight` where R = sigma(z + v): log(a max(R, floor) + b (1 - R)), one logarithm a token in place of
    four."""

    def __init__(self, z: Tensor, v: Tensor, x: Tensor, delta: float, floor: float):
        soft_weight(v, v, x[:, 0], delta=delta, floor=floor)  # the same complaints
        self.z, self.v, self.x, self.delta, self.floor = z, v, x, delta, floor

    def __getitem__(self, s: slice) -> Tensor:
        z, x, limits = (
            self.z[s].to(self.v.dtype) + self.v[s],
            self.x[s],
            torch.finfo(self.v.dtype),
        )  # reads write nothing
        if self.delta == 1:
            return soft_weight(F.logsigmoid(z), z, x[:, 0], delta=1.0, floor=self.floor)
        r = z.sigmoid_()
        b = (1 - self.delta) / (1 - x).clamp(min=limits.eps)
        w = r.clamp(min=self.floor).mul_(self.delta / x.clamp(min=limits.tiny)).addcmul_(1 - r, b)
        return w.log_().masked_fill_(x >= self.delta, 0.0)


class _Mixed(torch.autograd.Function):
    """E = sum p sigma(z) and N = sum p sigma(-z) over the last dimension, (M,): dE/dz = p sigma(z) sigma(-z) = -dN/dz.
    A few rows at a time stay in cache."""

    @staticmethod
    def forward(ctx, z, log_p):
        e, n, slope = z.new_empty(len(z)), z.new_empty(len(z)), torch.empty_like(z)
        for i in range(0, len(z), ROWS):
            s = slice(i, i + ROWS)
            no = torch.neg(z[s]).sigmoid_()
            p = log_p[s].exp()
            yes = z[s].sigmoid().mul_(p)
            e[s], n[s] = yes.sum(-1), p.mul_(no).sum(-1)
            torch.mul(yes, no, out=slope[s])
        ctx.save_for_backward(slope)
        return e, n

    @staticmethod
    def backward(ctx, grad_e, grad_n):
        (slope,) = ctx.saved_tensors
        return slope * (grad_e - grad_n)[:, None], None


def prefix_bce(
    picked: tuple[Tensor, Tensor], branch: Tensor, labels: Tensor, *, weight: Tensor | None = None
) -> Tensor:
    """NADO's loss: cross-entropy of R(prefix) with the answer's label C (B,) at every one of its prefixes, mean over
    the M tokens.

    picked: (log R, log(1 - R)) (M,) of the tokens that came; branch (M,): whose they are; weight (B,): of each answer
    (`importance`).
    """
    c = labels[branch].to(picked[0].dtype)
    each = -(c * picked[0] + (1 - c) * picked[1])
    w = torch.ones_like(each) if weight is None else weight[branch].to(each.dtype)
    return (w * each).sum() / w.sum()


def learn(
    nado: Nado, hidden: Tensor, target: Tensor, branch: Tensor, labels: Tensor, *, steps: int, lr: float
) -> list[float]:
    """Teach R a classifier's verdicts by Adam on `prefix_bce` alone, all tokens in a batch; the loss before each step.

    hidden (M, D), target (M,), branch (M,) as `engine.hidden_states` and `engine.pack` give them; labels (B,) in
    [0, 1]. ValueError where all labels are equal: R would be a constant. What a study adds: `consistency`,
    `importance`.
    """
    if not 0 <= labels.min() < labels.max() <= 1:
        raise ValueError(
            "labels lie in 0 .. 1 and some answers must satisfy the classifier and some not; "
            f"given {labels.min():.3g} to {labels.max():.3g}"
        )
    optimizer, curve = torch.optim.Adam(nado.parameters(), lr=lr), []
    for _ in range(steps):
        loss = prefix_bce(nado(hidden, target), branch, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


def followers(branch: Tensor) -> Tensor:
    """Positions (K,) whose token is not its answer's last: what R said of the prefix they end can be held against
    position + 1, which starts from it."""
    return (branch[1:] == branch[:-1]).nonzero()[:, 0]


def consistency(expected: tuple[Tensor, Tensor], said: tuple[Tensor, Tensor], *, direction: str = "expected") -> Tensor:
    """Forward consistency: E = sum_v p(v | prefix) R(prefix, v) against r, what was said of that prefix one token
    earlier; mean KL of Bernoullis.

    expected: (log E, log(1 - E)) (K,) at `followers` + 1, said: (log r, log(1 - r)) (K,) at `followers`; 0 for K = 0.
    "expected": KL(E || r), as in NADO's code, "said": KL(r || E). No gradient is stopped.
    """
    if direction not in ("expected", "said"):
        raise ValueError(f"direction is expected or said, given {direction!r}")
    gap = bernoulli_kl(expected, said) if direction == "expected" else bernoulli_kl(said, expected)
    return gap.sum() / max(1, len(gap))


def expected_success(log_p: Tensor, every: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(log E, log(1 - E)) (M,), E = sum_v p(v) R(v): the success rate of a prefix by its next tokens (M, V)."""
    return (log_p + every[0]).logsumexp(-1), (log_p + every[1]).logsumexp(-1)


def importance(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Weights (B,) of answers drawn from q, for expectations under p: p(y) / q(y), self-normalised over the batch.

    q is the law by which they were really drawn: token by token at temperature 1 / tau it is the product of
    softmax(tau z) over their tokens, which is not p(y)^tau, as the weights p^(1 - tau) of NADO's code take it to be.
    """
    return (log_p - log_q).softmax(0)


# ---- what it is compared with


def policy_gradient(log_p: Tensor, reward: Tensor, start: Tensor, *, beta: float, then: Tensor | None = None) -> Tensor:
    """REINFORCE with the batch mean as baseline on reward (B,) minus beta (log p - log start): surrogate (B,) whose
    gradient is the policy's.

    then: log p (B,) when the answers were drawn, where that is past; each is weighted by p / p then, and so is the
    baseline.
    """
    gain = (reward - beta * (log_p - start)).detach()
    if then is None:
        return -(gain - gain.mean()) * log_p
    ratio = (log_p.detach() - then).exp()
    return -ratio * (gain - (ratio * gain).sum() / ratio.sum()) * log_p


def subtrajectory_balance(log_reward: Tensor, log_token: Tensor, log_stop: Tensor, mask: Tensor) -> Tensor:
    """GFlowNet: mean of (log [R(z_1:i) prod q(z_k) q(stop | z_1:j)] - log [R(z_1:j) q(stop | z_1:i)])^2 over all i < j
    of every answer.

    log_reward, log_stop, mask (B, T + 1): of every prefix, ended there; log_token (B, T). arXiv 2310.04363, lambda 1.
    """
    free = log_reward - log_stop  # (B, T + 1)
    path = torch.cat([torch.zeros_like(log_token[:, :1]), log_token], 1).cumsum(1)
    balance = free - path
    gap = balance[:, :, None] - balance[:, None, :]
    both = (mask[:, :, None] & mask[:, None, :]).triu(1)
    return gap.square()[both].mean()

"""Attribute-controlled fine-tuning of a language model: sample, label, learn R, and fine-tune towards what satisfies
the constraint, in turns.

Only the model's last blocks learn (`lib.engine.trunk`). The auxiliary model reads the final hidden states of the model
that drew its samples, so both it and those states are frozen while the language model takes its steps. Formulas:
`lib.constraint.nado`; arXiv 2410.05559, algorithm of section 3.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lib import constraint
from lib.constraint.nado import Nado, expected_success, head_kl
from lib.engine import training, trunk
from lib.engine.generation import Completion, generate, recorded
from lib.engine.head import head_of
from lib.engine.logprobs import mean_logprob, sum_logprob, token_logprobs
from lib.harness import seeding
from lib.harness.progress import track
from lib.quantization import block_linears
from lib.scoring.toxicity import checked
from lib.studies.attribute_control.forum import Line

Oracle = Callable[[Sequence[str]], Tensor]  # texts -> scores in [0, 1] of having the attribute
Weights = dict[str, Tensor]


class Samples(NamedTuple):
    """Answers with the oracle's verdicts: rows are (prompt ids, answers' ids); the model's own come first, then lines
    of the corpus."""

    rows: list[tuple[list[int], list[list[int]]]]
    fine: Tensor  # (N,) in the order of the answers, 1 where the score is below one half
    done: list[Completion]  # the model's own
    pieces: list[list[Tensor]]  # what the top reads, for every row


def check(cfg) -> None:
    """ValueError before any work if there are more iterations than steps, or a weight that is none, or nothing to
    choose one on."""
    steps = max(1, round(cfg.epochs * (cfg.n_related + cfg.n_detection + cfg.n_general) / cfg.batch))
    slices([[]] * steps, cfg.iterations)
    if cfg.weights != "none" and cfg.corpus != "composed":
        raise ValueError(
            f"weights are chosen on the composed corpus, given {cfg.corpus!r}: set WEIGHTS to none, and LAM and "
            "RL_WEIGHTS as you like"
        )
    for name in ("lams", "rl_weights", "weights"):
        for item in (x for x in cfg.items_of(name) if x != "none"):
            try:
                value = float(item)
            except ValueError:
                raise ValueError(f"{name} takes numbers, given {item!r}") from None
            if not value >= 0:
                raise ValueError(
                    f"{'a weight of the policy gradient' if name == 'rl_weights' else 'lambda'} is at least 0, "
                    f"given {item}"
                )


class Steering:
    """A language model that learns a corpus of `lines` and is kept away from an attribute. `asked`: prompts of the
    related part, to sample from."""

    def __init__(
        self,
        cfg,
        model,
        tokenizer,
        *,
        lines: Sequence[Line],
        asked: Sequence[str],
        oracle: Oracle,
        stop_ids: Sequence[int],
    ):
        if not lines or not asked:
            raise ValueError(
                f"a corpus and prompts of its related part are needed, given {len(lines)} lines and {len(asked)} "
                "prompts"
            )
        self.cfg, self.model, self.tokenizer, self.stop, self.oracle = cfg, model, tokenizer, list(stop_ids), oracle
        self.lower, self.top = trunk.split(model, cfg.blocks)
        self.below = trunk.end(model, cfg.blocks)
        self.head = head_of(self.top)
        self.linears = block_linears(self.top)
        self.start = self.snapshot()
        self.known: dict[Line, list[Tensor]] = {}  # what the frozen blocks make of a line
        self.lines, self.rows = list(lines), [self.row(x) for x in lines]
        self.pieces = self.read(self.lines)
        self.related = [x.domain == "forum" for x in lines]
        self.asked = [self.ids(p) for p in asked]

    def ids(self, text: str) -> list[int]:
        """Token ids of plain text: no chat template, what the tokenizer puts in front stays."""
        return self.tokenizer(text).input_ids

    def row(self, line: Line) -> tuple[list[int], list[list[int]]]:
        """(prompt, [text and end]) as `logprobs.pack` takes it."""
        return self.ids(line.prompt), [[*self.tokenizer.encode(line.text, add_special_tokens=False), self.stop[0]]]

    def read(self, lines: Sequence[Line]) -> list[list[Tensor]]:
        """What the top reads of each line; the frozen blocks see a line once."""
        new = list(dict.fromkeys(x for x in lines if x not in self.known))
        self.known |= (
            zip(new, trunk.states(self.lower, [self.row(x) for x in new], batch=self.cfg.eval_batch)) if new else ()
        )
        return [self.known[x] for x in lines]

    def snapshot(self) -> Weights:
        """The weights that learn, as they are."""
        return {n: m.weight.detach().clone() for n, m in self.linears.items()}

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        """Put weights into the model."""
        for n, m in self.linears.items():
            m.weight.copy_(weights[n])

    # ---- the auxiliary model

    def nado(self) -> Nado:
        """One that changes nothing yet."""
        return Nado(
            self.head.weight, self.cfg.layers, style=self.cfg.style, generator=torch.Generator().manual_seed(0)
        ).to(self.head.device)

    def text(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def collect(self, name: str, *, n: int, prompts: int, mixed: int = 0) -> Samples:
        """n answers to each of as many of the related prompts, drawn from the model as it is (to the power tau) and
        labelled.

        mixed: related lines of the corpus besides: a clean model writes nothing from which R could learn what to avoid.
        """
        g = seeding.torch_generator(self.cfg.seed, f"samples {name}", str(self.head.device))
        pick = torch.randperm(len(self.asked), generator=seeding.torch_generator(self.cfg.seed, f"prompts {name}"))[
            :prompts
        ].tolist()
        asked = [self.asked[i] for i in pick]
        done = generate(
            self.model,
            asked,
            n=n,
            temperature=1 / self.cfg.tau,
            generator=g,
            max_new_tokens=self.cfg.tokens,
            stop_ids=self.stop,
            batch=self.cfg.generation_batch,
            watch=self.below,
        )
        related = [i for i, r in enumerate(self.related) if r]
        extra = [
            related[i]
            for i in torch.randperm(len(related), generator=seeding.torch_generator(self.cfg.seed, f"lines {name}"))[
                :mixed
            ].tolist()
        ]
        texts = [*(self.text(c.tokens) for c in done), *(self.lines[i].text for i in extra)]
        fine = (checked(self.oracle(texts)) < 0.5).double()
        each = [done[i * n : (i + 1) * n] for i in range(len(asked))]
        rows = [(p, [c.tokens for c in row]) for p, row in zip(asked, each)]
        pieces = [*(recorded(row) for row in each), *(self.pieces[i] for i in extra)]
        return Samples([*rows, *(self.rows[i] for i in extra)], fine, done, pieces)

    @torch.inference_mode()
    def hidden(self, rows, pieces, *, answers: int = 0) -> list[tuple]:
        """(final hidden states (M, D), tokens (M,), whose they are (M,), how many answers) of rows, `eval_batch` rows
        at a time, or about as many answers."""
        out, starts = [], list(range(0, len(rows), self.cfg.eval_batch))
        if answers:
            starts, held = [0], 0
            for i, (_, several) in enumerate(rows):
                if held >= answers:
                    starts, held = [*starts, i], 0
                held += len(several)
        for i, j in zip(starts, [*starts[1:], len(rows)]):
            packed, h = trunk.top_states(self.top, rows[i:j], pieces[i:j])
            out.append((h.clone(), packed.target, packed.branch, packed.branches))
        return out

    def teach(self, nado: Nado, samples: Samples, name: str) -> dict[str, float]:
        """Fit R to the labels, at every prefix, consistent from token to token; `nado` is left as it is where one label
        is missing."""
        cfg, share, own = self.cfg, 1 - samples.fine.mean().item(), len(samples.done)
        log = {
            "answers": len(samples.fine),
            "attribute in samples": 1 - samples.fine[:own].mean().item(),
            "updated": float(0 < share < 1),
        }
        if not 0 < share < 1:
            return log
        groups, at = self.hidden(samples.rows, samples.pieces, answers=cfg.nado_batch), 0
        weight = constraint.importance(torch.tensor([sum(c.logprobs) for c in samples.done]), cfg.tau) * own
        weight = torch.cat([weight, torch.ones(len(samples.fine) - own)])
        parts = []
        for h, target, branch, count in groups:
            parts.append(
                (h, target, branch, samples.fine[at : at + count].to(h.device), weight[at : at + count].to(h.device))
            )
            at += count
        optimizer = torch.optim.AdamW(nado.parameters(), lr=cfg.nado_lr, weight_decay=0.0)
        order = seeding.torch_generator(cfg.seed, f"nado {name}")
        for _ in track(range(cfg.nado_epochs), f"success rates, {name}"):
            sums = torch.zeros(2)
            for i in torch.randperm(len(parts), generator=order).tolist():
                bce, gap = self._nado_losses(nado, *parts[i], order)
                optimizer.zero_grad(set_to_none=True)
                (bce + cfg.consistency * gap).backward()
                optimizer.step()
                sums += torch.stack([bce.detach(), gap.detach()]).cpu() / len(parts)
        return log | {"cross-entropy of R": sums[0].item(), "inconsistency of R": sums[1].item()}

    def _nado_losses(
        self,
        nado: Nado,
        h: Tensor,
        target: Tensor,
        branch: Tensor,
        fine: Tensor,
        weight: Tensor,
        order: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        h, target, branch = h.clone(), target.clone(), branch.clone()  # no inference tensors in a graph
        picked = nado(h, target)
        bce = constraint.prefix_bce(picked, branch, fine, weight=weight)
        if not self.cfg.consistency:
            return bce, bce.detach() * 0
        at = constraint.followers(branch)
        at = at[
            torch.randperm(len(at), generator=order)[: math.ceil(self.cfg.consistent * len(at))].to(at.device)
        ]  # the whole vocabulary at each
        with torch.no_grad():
            log_p = self.head.logits(h[at + 1]).float().log_softmax(-1)
        return bce, constraint.consistency(nado.expected(h[at + 1], log_p), tuple(x[at] for x in picked))

    # ---- the language model

    @torch.no_grad()
    def targets(self, nado: Nado, which: Sequence[int]) -> dict[int, tuple[Tensor, Tensor]]:
        """(hidden states (T, D) of the model as it is, success rate of the prompt) of lines: what R is read from while
        the model moves on."""
        out, rows, pieces = {}, [self.rows[i] for i in which], [self.pieces[i] for i in which]
        for (h, _, branch, count), at in zip(self.hidden(rows, pieces), range(0, len(rows), self.cfg.eval_batch)):
            h = h.clone()
            first = torch.cat([branch.new_ones(1, dtype=torch.bool), branch[1:] != branch[:-1]])
            rate = expected_success(self.head.logits(h[first]).float().log_softmax(-1), nado(h[first]))[0].exp()
            for k in range(count):
                out[which[at + k]] = (h[branch == k], rate[k])
        return out

    def tune(
        self,
        stepper: training.Stepper,
        batches: Sequence[Sequence[int]],
        *,
        nado: Nado | None,
        lam: float,
        gated: bool,
        desc: str,
    ) -> list[dict]:
        """Steps on corpus cross-entropy + lam KL(p, closest), both means over a line's tokens; the KL on related lines
        only if `gated`."""
        used = lambda i: lam > 0 and nado is not None and (self.related[i] or not gated)  # noqa: E731
        frozen = (
            self.targets(nado, sorted({i for b in batches for i in b if used(i)}))
            if lam > 0 and nado is not None
            else {}
        )

        def objective(indices):
            packed, h = trunk.top_states(self.top, [self.rows[i] for i in indices], [self.pieces[i] for i in indices])
            ce = -mean_logprob(token_logprobs(h, self.head, packed.target), packed.branch, packed.branches)
            total, logged = ce.sum(), {"cross-entropy": ce.sum().item()}
            if held := [k for k, i in enumerate(indices) if used(i)]:
                mine = (packed.branch[:, None] == torch.tensor(held, device=h.device)).any(1)
                features = torch.cat([frozen[indices[k]][0] for k in held])
                rate = torch.cat([frozen[indices[k]][1].expand(len(frozen[indices[k]][0])) for k in held])
                log_w = lambda s: nado.weights(features[s], rate[s], delta=self.cfg.delta, floor=self.cfg.floor)  # noqa: E731
                kl = head_kl(h[mine], self.head, log_w, direction=self.cfg.direction)
                kl = mean_logprob(kl, packed.branch[mine], packed.branches).nan_to_num(
                    0.0
                )  # lines outside the gate: 0 / 0
                total, logged = total + lam * kl.sum(), logged | {"kl": kl.sum().item()}
            return total, logged

        return [stepper.step(b, objective, micro=self.cfg.micro, desc=desc) for b in track(batches, desc)]

    def stepper(self, steps: int) -> training.Stepper:
        """A fresh optimizer on the model as it is."""
        latent = training.Latent(self.linears, partial(training.Full, quantizer=None))
        return training.Stepper(latent, lr=self.cfg.lr, warmup=self.cfg.warmup, clip=self.cfg.clip, horizon=steps)

    def batches(self, keep: Sequence[int]) -> list[list[int]]:
        """`epochs` passes over the kept lines, as many steps for every arm: the whole corpus counts them."""
        steps = max(1, round(self.cfg.epochs * len(self.lines) / self.cfg.batch))
        stream = training.epochs(
            len(keep), min(self.cfg.batch, len(keep)), seeding.torch_generator(self.cfg.seed, "order")
        )
        return [[keep[i] for i in next(stream)] for _ in range(steps)]


def clean(lines: Sequence[Line], oracle: Oracle) -> list[int]:
    """The lines that filtering keeps: those whose text the oracle lets pass, and no question about a text that has the
    attribute."""
    scores = checked(oracle([x.text for x in lines]))
    keep = [
        i
        for i, (x, s) in enumerate(zip(lines, scores.tolist()))
        if s < 0.5 and not (x.domain == "detection" and x.toxic)
    ]
    if not keep:
        raise ValueError(f"filtering leaves none of {len(lines)} lines")
    return keep


def slices(batches: Sequence[Sequence[int]], k: int) -> list[Sequence[Sequence[int]]]:
    """The steps of k iterations, as even as they come."""
    if not 1 <= k <= len(batches):
        raise ValueError(f"iterations are 1 to the number of steps, {len(batches)}, given {k}")
    ends = [round(i * len(batches) / k) for i in range(k + 1)]
    return [batches[a:b] for a, b in zip(ends, ends[1:])]


def fine_tune(world: Steering, *, keep: Sequence[int] | None = None, desc: str) -> list[dict]:
    """Plain fine-tuning on the lines in `keep` (all), from the start."""
    world.load(world.start)
    batches = world.batches(list(range(len(world.lines))) if keep is None else keep)
    return world.tune(world.stepper(len(batches)), batches, nado=None, lam=0.0, gated=True, desc=desc)


class Turn(NamedTuple):
    """What one iteration took: seconds to sample, label and learn R, seconds of the model's steps, and what was logged
    of R."""

    oracle: float
    model: float
    log: dict[str, float]


def controlled(
    world: Steering, *, lam: float, gated: bool, stale: bool = False, desc: str, partner=None
) -> tuple[list[dict], list[Turn], Nado]:
    """The paper's method, from the start: (curve, turns, the last R). In each iteration sample and learn R, then
    fine-tune towards it.

    stale: from the second iteration on the model's steps use the R of the one before, which is what running both at
    once amounts to; with `partner` (`lib.studies.attribute_control.parallel`) they do run at once, in two processes.
    """
    if lam < 0:
        raise ValueError(f"lambda is at least 0, given {lam}")
    cfg = world.cfg
    world.load(world.start)
    batches = world.batches(list(range(len(world.lines))))
    stepper, nado, curve, turns = world.stepper(len(batches)), world.nado(), [], []

    def teach(n, k):
        return world.teach(
            n, world.collect(f"iteration {k}", n=cfg.each, prompts=cfg.n_asked, mixed=cfg.mixed), f"iteration {k}"
        )  # noqa: E731

    for k, part in enumerate(slices(batches, cfg.iterations)):
        begun = time.perf_counter()
        if stale and k:
            old, nado = nado, world.nado()
            nado.load_state_dict(old.state_dict())
            waiting = partner.begin(world.snapshot(), nado.state_dict(), k) if partner else None
            log = {} if partner else teach(nado, k)
        else:
            log, waiting, old = teach(nado, k), None, nado
        between = time.perf_counter()
        curve += world.tune(stepper, part, nado=old, lam=lam, gated=gated, desc=f"{desc}, iteration {k}")
        done = time.perf_counter()
        if waiting is not None:
            state, log, spent = waiting()
            nado.load_state_dict(state)
            turns.append(Turn(spent, done - between, log))
        else:
            turns.append(Turn(between - begun, done - between, log))
    return curve, turns, nado


def reinforced(world: Steering, *, weight: float, beta: float, desc: str) -> list[dict]:
    """The RL baseline: the same corpus steps, and `weight` times a policy gradient with the oracle's verdict as reward
    and a KL to the start.

    As many samples in all as the paper's method labels. One draw serves `rl_draw` steps, its answers weighted by how
    much likelier the policy finds them by now, which keeps the gradient that of the present policy: decoding few
    answers at a time would be most of the work.
    """
    cfg = world.cfg
    world.load(world.start)
    batches = world.batches(list(range(len(world.lines))))
    stepper, curve = world.stepper(len(batches)), []
    prompts = max(1, round(cfg.iterations * cfg.n_asked / len(batches)))
    together = max(1, min(cfg.rl_draw, len(world.asked) // prompts))
    for step, batch in enumerate(track(batches, desc)):
        part = step % together
        if not part:
            drawn = world.collect(
                f"reinforced {step}", n=cfg.each, prompts=prompts * min(together, len(batches) - step)
            )
            then = _log_probs(world, drawn) if together > 1 else None
            now = world.snapshot()
            world.load(world.start)
            start = _log_probs(world, drawn)
            world.load(now)
        mine = slice(part * prompts, (part + 1) * prompts)
        answers = slice(mine.start * cfg.each, mine.stop * cfg.each)
        rows, pieces, fine = drawn.rows[mine], drawn.pieces[mine], drawn.fine[answers].to(start.device)
        before, old, own = start[answers], None if then is None else then[answers], [True]

        def objective(indices, rows=rows, pieces=pieces, fine=fine, before=before, old=old, batch=batch, own=own):
            packed, h = trunk.top_states(
                world.top, [world.rows[i] for i in indices], [world.pieces[i] for i in indices]
            )
            ce = -mean_logprob(token_logprobs(h, world.head, packed.target), packed.branch, packed.branches)
            total, logged = ce.sum(), {"cross-entropy": ce.sum().item()}
            if own:  # the step's own samples, once, whatever the number of micro-batches
                own.clear()
                packed, h = trunk.top_states(world.top, rows, pieces)
                log_p = sum_logprob(token_logprobs(h, world.head, packed.target), packed.branch, packed.branches)
                surrogate = (
                    constraint.policy_gradient(log_p, fine.to(log_p.dtype), before, beta=beta, then=old).mean()
                    / cfg.tokens
                )
                total = total + weight * len(batch) * surrogate
            return total, logged

        curve.append(
            stepper.step(batch, objective, micro=cfg.micro, desc=desc)
            | {"attribute in samples": 1 - fine.mean().item()}
        )
    return curve


def _log_probs(world: Steering, s: Samples) -> Tensor:
    """Summed log p of every answer under the model as it is."""
    return torch.cat(
        [sum_logprob(token_logprobs(h, world.head, t), b, n) for h, t, b, n in world.hidden(s.rows, s.pieces)]
    )

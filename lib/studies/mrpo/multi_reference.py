"""A world of several references: one model, preferences whose oracle is known, and the log-probs of every candidate
answer.

Only the last blocks of the model train (`lib.engine.trunk`), so a reference made here is a set of weights for them, and
its log-probs of every candidate are one small matrix. A reference of another family brings its matrix with it
(`foreign`). Arms: `lib.studies.mrpo.arms`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lib import data
from lib.engine import models, training, trunk
from lib.engine.head import head_of
from lib.engine.logprobs import check_finite, mean_logprob, sum_logprob, token_kl, token_logprobs
from lib.harness import seeding
from lib.losses import Preference, dpo, references
from lib.quantization import block_linears
from lib.scoring.likelihood import completion_logprobs
from lib.studies.mrpo.candidates import Candidates, Choice, choices, gather

Loss = Callable[[Tensor, Tensor, list[int]], Preference]  # (policy's chosen, rejected (B,), which pairs)


class Task(NamedTuple):
    """Preferences of one oracle: what the policy learns from, what made its complementary reference, what everything is
    judged on."""

    name: str  # of the reward, or of people's preferences
    train: list[Choice]
    reference: list[Choice]
    validation: list[Choice]
    test: list[Choice]
    category: str = ""  # of the prompts it is about; empty: all


def task(splits: dict[str, Candidates], reward: str, cfg, *, scarce: bool) -> Task:
    """The preferences of one reward. A scarce set takes half of the prompts' categories; the complementary reference
    saw the other half."""
    kinds = sorted({p.category for p in splits["train"].prompts})
    own, others = (kinds[1::2], kinds[::2]) if scarce else (kinds, kinds)
    rng = lambda what, seed: seeding.numpy_rng(seed, f"{reward} {what}")  # noqa: E731
    return Task(
        reward,
        choices(
            splits["train"],
            reward,
            n=cfg.n_scarce if scarce else cfg.n_abundant,
            rng=rng("train", cfg.seed),
            categories=own,
        ),
        choices(splits["train"], reward, n=cfg.n_reference, rng=rng("reference", cfg.seed), categories=others),
        choices(splits["validation"], reward, n=cfg.n_heldout // 2, rng=rng("validation", 0)),
        choices(splits["test"], reward, n=cfg.n_heldout, rng=rng("test", 0)),
    )


def given(splits: dict[str, Candidates], name: str, cfg, *, scarce: bool) -> Task:
    """The preferences of one set of `preferences.of_pairs`; other pairs of it make the complementary reference."""
    of = {
        split: [Choice(i, 0, 1, 1.0) for i, p in enumerate(c.prompts) if p.category == name]
        for split, c in splits.items()
    }
    train = [of["train"][i] for i in seeding.numpy_rng(cfg.seed, f"{name} train").permutation(len(of["train"]))]
    n = cfg.n_scarce if scarce else cfg.n_abundant
    return Task(
        f"{name}, {'few' if scarce else 'many'}",
        train[cfg.n_reference :][:n],
        train[: cfg.n_reference],
        of["validation"],
        of["test"],
        name,
    )


def foreign(
    spec: str, c: Candidates, *, stop_ids: Sequence[int], batch: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor]:
    """Log-probs and token counts, both (N, n), of candidates under a model of another family: its own tokenizer,
    template and end token.

    An answer that ended in one of `stop_ids` ends in the other model's first stop token, so both score the end or
    neither does.
    """
    model, tokenizer = models.load(spec, dtype=dtype, device=device)
    end = models.stop_ids(model, tokenizer)[0]

    def spell(text, ids):
        return [
            *tokenizer.encode(text, add_special_tokens=False),
            *[end] * (ids[-1] in stop_ids or not text),
        ]  # noqa: E731

    answers = [[spell(t, a) for t, a in zip(*row)] for row in zip(c.texts, c.answers)]
    scores = completion_logprobs(model, data.encode(tokenizer, c.prompts), *zip(*answers), batch=batch)
    return scores, torch.tensor([[len(a) for a in row] for row in answers], dtype=torch.float32)


class World:
    """cfg: the run's settings; run: where results go; splits: candidates by name ("train", "validation", "test")."""

    def __init__(self, cfg, run, model, tokenizer, splits: dict[str, Candidates], *, stop_ids: Sequence[int]):
        self.cfg, self.run, self.model, self.tokenizer, self.splits, self.stop = (
            cfg,
            run,
            model,
            tokenizer,
            splits,
            list(stop_ids),
        )
        self.lower, self.top = trunk.split(model, cfg.blocks)
        self.head = head_of(self.top)
        self.linears = {
            n: m
            for n, m in block_linears(self.top).items()
            if cfg.targets == "all" or n.rpartition(".")[2] in cfg.items_of("targets")
        }
        if not self.linears:
            raise ValueError(
                f"no linear layer of the last {cfg.blocks} blocks is called {cfg.targets}; there are "
                f"{sorted({n.rpartition('.')[2] for n in block_linears(self.top)})}"
            )
        self.pieces = {name: trunk.states(self.lower, c.rows(), batch=cfg.eval_batch) for name, c in splits.items()}
        self.tokens = {
            name: torch.tensor([[len(a) for a in row] for row in c.answers], dtype=torch.float32)
            for name, c in splits.items()
        }
        self.weights = {"base": self.snapshot()}
        self.matrices: dict[tuple[str, str], Tensor] = {}
        self.base_answers: dict[
            str, list
        ] = {}  # what the base writes to the test prompts of a category: the same for every task
        self.counts: dict[
            tuple[str, str], Tensor
        ] = {}  # tokens of the candidates under references that spell them their own way

    def add_foreign(self, name: str, spec: str) -> None:
        """Score every candidate once with another model, loaded for that alone: a second reference under its own
        tokenizer."""
        for split, c in self.splits.items():
            self.matrices[name, split], self.counts[name, split] = foreign(
                spec,
                c,
                stop_ids=self.stop,
                batch=self.cfg.eval_batch,
                dtype=self.model.dtype,
                device=str(self.model.device),
            )

    def snapshot(self) -> dict[str, Tensor]:
        """The top's trainable weights as they are."""
        return {name: m.weight.detach().clone() for name, m in self.linears.items()}

    @torch.no_grad()
    def load(self, reference: str) -> None:
        """Put a stored model's weights into the top (and so into the whole model)."""
        for name, m in self.linears.items():
            m.weight.copy_(self.weights[reference][name])

    def score(self, split: str, keep: Tensor | None = None) -> Tensor:
        """Summed log-probs (N, n) of every candidate, or of those in `keep` (N, n) and NaN elsewhere, under the top as
        it stands."""
        keep = torch.ones(self.tokens[split].shape, dtype=torch.bool) if keep is None else keep
        out, part = torch.full(keep.shape, torch.nan), keep.any(1).nonzero()[:, 0].tolist()
        rows = [
            (prompt, [a for a, k in zip(answers, keep[r]) if k])
            for r, (prompt, answers) in ((r, self.splits[split].rows()[r]) for r in part)
        ]
        pieces = [
            [self.pieces[split][r][0], *(p for p, k in zip(self.pieces[split][r][1:], keep[r]) if k)] for r in part
        ]
        out[keep] = check_finite(self.under_top(rows, pieces), keep.nonzero()[:, 0].tolist())
        return out

    @torch.inference_mode()
    def under_top(self, rows, pieces) -> Tensor:
        """Summed log-probs of the answers of (prompt, answers) rows, one after the other, under the top as it
        stands."""
        out = []
        for i in range(0, len(rows), self.cfg.eval_batch):
            packed, hidden = trunk.top_states(
                self.top, rows[i : i + self.cfg.eval_batch], pieces[i : i + self.cfg.eval_batch]
            )
            out.append(
                sum_logprob(token_logprobs(hidden, self.head, packed.target), packed.branch, packed.branches).cpu()
            )
        return torch.cat(out)

    @torch.inference_mode()
    def accuracy(self, split: str, picks: Sequence[Choice]) -> float:
        """Share of pairs whose chosen answer has the larger log-prob per token under the top as it stands: no reference
        enters."""
        rows, pieces, hits = self.splits[split].rows(), self.pieces[split], 0
        for i in range(0, len(picks), self.cfg.eval_batch):
            _, w, l = self._pairs(rows, pieces, picks[i : i + self.cfg.eval_batch])
            part = picks[i : i + self.cfg.eval_batch]
            lengths = gather(self.tokens[split], part)
            hits += (w.cpu() / lengths[0] > l.cpu() / lengths[1]).sum().item()
        return hits / len(picks)

    def _pairs(self, rows, pieces, picks: Sequence[Choice]):
        """((packed, hidden), chosen (B,), rejected (B,)): what the top gives for these pairs."""
        packed, hidden = trunk.top_states(
            self.top,
            [(rows[c.row][0], [rows[c.row][1][c.chosen], rows[c.row][1][c.rejected]]) for c in picks],
            [[pieces[c.row][0], pieces[c.row][1 + c.chosen], pieces[c.row][1 + c.rejected]] for c in picks],
        )
        tokens = token_logprobs(hidden, self.head, packed.target)
        return (packed, hidden), *sum_logprob(tokens, packed.branch, packed.branches).view(-1, 2).unbind(1)

    def matrix(self, reference: str, split: str, keep: Tensor | None = None) -> Tensor:
        """Log-probs (N, n) of the candidates in `keep` (all) under a stored model; each is computed once, the others
        may be NaN.

        "mis-scored" has none of its own: the complementary model's, of other texts.
        """
        keep = torch.ones(self.tokens[split].shape, dtype=torch.bool) if keep is None else keep
        if reference == "mis-scored":
            order = torch.randperm(
                keep.numel(), generator=seeding.torch_generator(self.cfg.seed, f"mis-scored {split}")
            )
            of = torch.zeros(keep.numel(), dtype=torch.bool)
            of[order[keep.flatten()]] = True
            return self.matrix("complementary", split, of.view_as(keep)).flatten()[order].view_as(keep)
        known = self.matrices.setdefault((reference, split), torch.full(keep.shape, torch.nan))
        missing = keep & known.isnan()
        if missing.any():
            before = self.snapshot()
            self.load(reference)
            known[missing] = self.score(split, missing)[missing]
            self.weights["_"] = before
            self.load("_")
        return known

    def needed(self, split: str, picks: Sequence[Choice]) -> Tensor:
        """Which candidates (N, n) the pairs hold."""
        keep = torch.zeros(self.tokens[split].shape, dtype=torch.bool)
        for c in picks:
            keep[c.row, [c.chosen, c.rejected]] = True
        return keep

    def table(self, names: Sequence[str], split: str, picks: Sequence[Choice]) -> references.Table:
        """Log-probs and token counts of the pairs under these references, the primary first."""
        counts = lambda n: gather(self.counts.get((n, split), self.tokens[split]), picks)  # noqa: E731
        keep = self.needed(split, picks)
        return references.table([(*gather(self.matrix(n, split, keep), picks), *counts(n)) for n in names], names=names)

    def fit(
        self,
        picks: Sequence[Choice],
        loss: Loss,
        *,
        lr: float,
        steps: int,
        start: str = "base",
        desc: str,
        teacher: Sequence[Tensor] | None = None,
        teacher_weight: float = 0.0,
    ) -> list[dict]:
        """Train the top from `start` on preferences of split "train"; returns the curve.

        teacher: hidden states of a second model on each chosen answer; adds teacher_weight KL(teacher || policy) per
        token ("our KD").
        """
        rows, pieces = self.splits["train"].rows(), self.pieces["train"]

        def objective(indices):
            (packed, hidden), w, l = self._pairs(rows, pieces, [picks[i] for i in indices])
            check_finite(torch.stack([w, l], 1), indices)
            out = loss(w, l, list(indices))
            total = out.loss.sum()
            if teacher is not None:
                of_chosen = packed.branch % 2 == 0
                kl = token_kl(hidden[of_chosen], torch.cat([teacher[i] for i in indices]).to(hidden.device), self.head)
                total = total + teacher_weight * mean_logprob(kl, packed.branch[of_chosen] // 2, len(indices)).sum()
            return total, {
                "margin": (out.chosen - out.rejected).sum().item(),
                "chosen logprob": w.sum().item(),
                "rejected logprob": l.sum().item(),
            }

        self.load(start)
        adapter = seeding.torch_generator(self.cfg.seed, "adapter")
        make = (
            partial(training.LoRA, rank=self.cfg.rank, alpha=self.cfg.alpha, generator=adapter)
            if self.cfg.rank
            else training.Full
        )
        latent = training.Latent(self.linears, partial(make, quantizer=None))
        lengths = [len(rows[c.row][0]) + len(rows[c.row][1][c.chosen]) + len(rows[c.row][1][c.rejected]) for c in picks]
        order = seeding.torch_generator(self.cfg.seed, "order")
        batches = training.epochs(len(picks), min(self.cfg.batch, len(picks)), order, lengths=lengths)
        return training.fit(
            latent,
            batches,
            objective,
            steps=steps,
            lr=lr,
            warmup=self.cfg.warmup,
            clip=self.cfg.clip,
            micro=self.cfg.batch,
            desc=desc,
        )

    @torch.inference_mode()
    def chosen_states(self, reference: str, picks: Sequence[Choice]) -> list[Tensor]:
        """Final hidden states (T, D) of a stored model on each chosen answer of split "train"."""
        before, out = self.snapshot(), []
        self.load(reference)
        for c in picks:
            row, piece = self.splits["train"].rows()[c.row], self.pieces["train"][c.row]
            _, hidden = trunk.top_states(self.top, [(row[0], [row[1][c.chosen]])], [[piece[0], piece[1 + c.chosen]]])
            out.append(hidden.cpu())
        self.weights["_"] = before
        self.load("_")
        return out

    def make_references(self, t: Task) -> None:
        """Train and store the references of a task: "complementary" (the same oracle, its own pairs) and "equal" (own
        samples, no oracle)."""
        primary = self.table(["base"], "train", t.reference)

        def loss(w, l, i):
            return dpo(w, l, primary.chosen[0, i].to(w.device), primary.rejected[0, i].to(w.device), beta=self.cfg.beta)  # noqa: E731

        coin = seeding.numpy_rng(self.cfg.seed, "coin").random(len(t.reference)) < 0.5
        blind = [
            c._replace(chosen=c.rejected, rejected=c.chosen) if heads else c for c, heads in zip(t.reference, coin)
        ]
        own = lambda w, l, i: Preference(-w / self.tokens["train"].mean(), w.detach(), l.detach())  # noqa: E731
        for name, picks, objective in (("complementary", t.reference, loss), ("equal", blind, own)):
            self.fit(picks, objective, lr=self.cfg.lr, steps=self.steps(len(picks)), desc=f"{name} reference, {t.name}")
            self.weights[name] = self.snapshot()
        for key in [k for k in self.matrices if k[0] != "base" and k not in self.counts]:
            del self.matrices[key]

    def steps(self, n: int) -> int:
        """Optimizer steps of `epochs` passes over n pairs."""
        return max(1, round(self.cfg.epochs * n / self.cfg.batch))

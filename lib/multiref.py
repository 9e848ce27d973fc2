"""One study of several references: policies that differ in nothing but the loss, on preferences whose oracle is known.

Only the last blocks of the model train (`lib.trunk`), so a reference is a set of weights for them, and its log-probs of every candidate
answer are one small matrix. `World` keeps model, candidates and references; an arm is a name and a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib import references, training, trunk
from lib.evaluation import multiple_choice
from lib.generation import generate
from lib.harness import seeding
from lib.logprobs import check_finite, mean_logprob, sum_logprob, token_kl, token_logprobs
from lib.losses import Preference, dpo
from lib.oracles import score
from lib.preferences import Candidates, Choice, choices, gather
from lib.quantization import block_linears
from lib.scoring import completion_logprobs

Loss = Callable[[Tensor, Tensor, list[int]], Preference]  # (policy's chosen, rejected (B,), which pairs)


class Task(NamedTuple):
    """Preferences of one oracle: what the policy learns from, what made its complementary reference, what everything is judged on."""

    name: str  # of the reward
    train: list[Choice]
    reference: list[Choice]
    validation: list[Choice]
    test: list[Choice]


MOVING = ("swcw", "swcw-onehot", "tsw")  # weights that change while the policy trains


class Spec(NamedTuple):
    """How an arm uses its references; every arm has the same data, steps and learning rate."""

    kind: str  # none, primary, second, multi or virtual: which references enter the loss
    mean: str = "harmonic"
    weights: str = "arwc"  # arwc, uniform, vaw, vdw, swcw, swcw-onehot, tsw, or the second reference's fixed share as a number
    clip: bool = True  # CTRO
    epsilon: float | None = None  # of the clipping; None: the setting's
    adaptive: bool = True
    normalized: bool = False  # log-probs per token on both sides, beta times the mean answer length
    swap: bool = False  # the release's swapped weights
    kd: bool = False  # adds KL to the second reference


ARMS = {
    "base": Spec("none"), "dpo": Spec("primary"), "single": Spec("second"), "kd": Spec("primary", kd=True), "multi-dpo": Spec("multi"),
    "mrpo": Spec("virtual"), "mrpo-swapped": Spec("virtual", swap=True), "mrpo-unclipped": Spec("virtual", clip=False),
    "mrpo-uniform": Spec("virtual", weights="uniform"), "mrpo-vaw": Spec("virtual", weights="vaw"), "mrpo-vdw": Spec("virtual", weights="vdw"),
    "geometric": Spec("virtual", mean="geometric", clip=False), "arithmetic": Spec("virtual", mean="arithmetic", clip=False),
    "mrpo-normalized": Spec("virtual", normalized=True),
    **{f"mrpo-{w}": Spec("virtual", weights=w) for w in ("0.1", "0.9", "swcw", "swcw-onehot", "tsw")},
}  # fmt: skip


def task(splits: dict[str, Candidates], reward: str, cfg, *, scarce: bool) -> Task:
    """The preferences of one reward. A scarce set takes half of the prompts' categories; the complementary reference saw the other half."""
    kinds = sorted({p.category for p in splits["train"].prompts})
    own, others = (kinds[1::2], kinds[::2]) if scarce else (kinds, kinds)
    rng = lambda what, seed: seeding.numpy_rng(seed, f"{reward} {what}")  # noqa: E731
    return Task(
        reward,
        choices(splits["train"], reward, n=cfg.n_scarce if scarce else cfg.n_abundant, rng=rng("train", cfg.seed), categories=own),
        choices(splits["train"], reward, n=cfg.n_reference, rng=rng("reference", cfg.seed), categories=others),
        choices(splits["validation"], reward, n=cfg.n_heldout // 2, rng=rng("validation", 0)),
        choices(splits["test"], reward, n=cfg.n_heldout, rng=rng("test", 0)),
    )


class World:
    """cfg: the run's settings; run: where results go; splits: candidates by name ("train", "validation", "test")."""

    def __init__(self, cfg, run, model, tokenizer, splits: dict[str, Candidates], *, stop_ids: Sequence[int]):
        self.cfg, self.run, self.model, self.tokenizer, self.splits, self.stop = cfg, run, model, tokenizer, splits, list(stop_ids)
        lower, self.top = trunk.split(model, cfg.blocks)
        self.head = self.top.get_output_embeddings().weight
        self.linears = block_linears(self.top)
        self.pieces = {name: trunk.states(lower, c.rows(), batch=cfg.eval_batch) for name, c in splits.items()}
        self.tokens = {name: torch.tensor([[len(a) for a in row] for row in c.answers], dtype=torch.float32) for name, c in splits.items()}
        self.weights = {"base": self.snapshot()}
        self.matrices: dict[tuple[str, str], Tensor] = {}

    def snapshot(self) -> dict[str, Tensor]:
        """The top's trainable weights as they are."""
        return {name: m.weight.detach().clone() for name, m in self.linears.items()}

    @torch.no_grad()
    def load(self, reference: str) -> None:
        """Put a stored model's weights into the top (and so into the whole model)."""
        for name, m in self.linears.items():
            m.weight.copy_(self.weights[reference][name])

    @torch.inference_mode()
    def score(self, split: str) -> Tensor:
        """Summed log-probs (N, n) of every candidate under the top as it stands."""
        rows, pieces, out = self.splits[split].rows(), self.pieces[split], []
        for i in range(0, len(rows), self.cfg.eval_batch):
            packed, hidden = trunk.top_states(self.top, rows[i : i + self.cfg.eval_batch], pieces[i : i + self.cfg.eval_batch])
            tokens = token_logprobs(hidden, self.head, packed.target)
            out.append(sum_logprob(tokens, packed.branch, packed.branches).view(-1, len(rows[0][1])).cpu())
        return check_finite(torch.cat(out), range(len(rows)))

    @torch.inference_mode()
    def accuracy(self, split: str, picks: Sequence[Choice]) -> float:
        """Share of pairs whose chosen answer has the larger log-prob per token under the top as it stands: no reference enters."""
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

    def matrix(self, reference: str, split: str) -> Tensor:
        """`score` of a stored model, computed once. "mis-scored" has none of its own: the complementary model's, of other texts."""
        if (reference, split) not in self.matrices:
            if reference == "mis-scored":
                true = self.matrix("complementary", split)
                order = seeding.torch_generator(self.cfg.seed, f"mis-scored {split}")
                self.matrices[reference, split] = true.flatten()[torch.randperm(true.numel(), generator=order)].view_as(true)
            else:
                before = self.snapshot()
                self.load(reference)
                self.matrices[reference, split] = self.score(split)
                self.weights["_"] = before
                self.load("_")
        return self.matrices[reference, split]

    def table(self, names: Sequence[str], split: str, picks: Sequence[Choice]) -> references.Table:
        """Log-probs and token counts of the pairs under these references, the primary first."""
        counts = gather(self.tokens[split], picks)
        return references.table([(*gather(self.matrix(n, split), picks), *counts) for n in names], names=names)

    def fit(
        self, picks: Sequence[Choice], loss: Loss, *, lr: float, steps: int, start: str = "base", desc: str, teacher: Sequence[Tensor] | None = None,
        teacher_weight: float = 0.0,
    ) -> list[dict]:
        """Train the top from `start` on preferences of split "train"; returns the curve.

        teacher: hidden states of a second model on each chosen answer; adds teacher_weight KL(teacher || policy) per token ("our KD").
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
            return total, {"margin": (out.chosen - out.rejected).sum().item(), "chosen logprob": w.sum().item(), "rejected logprob": l.sum().item()}

        self.load(start)
        latent = training.Latent(self.linears, partial(training.Full, quantizer=None))
        lengths = [len(rows[c.row][0]) + len(rows[c.row][1][c.chosen]) + len(rows[c.row][1][c.rejected]) for c in picks]
        order = seeding.torch_generator(self.cfg.seed, "order")
        batches = training.epochs(len(picks), min(self.cfg.batch, len(picks)), order, lengths=lengths)
        return training.fit(latent, batches, objective, steps=steps, lr=lr, warmup=self.cfg.warmup, clip=self.cfg.clip, micro=self.cfg.batch, desc=desc)

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

    def weights_of(self, kind: str, names: Sequence[str], split: str, picks: Sequence[Choice], validation: Sequence[Choice], *, normalized: bool = False) -> Tensor:
        """Weights (K,) or (K, B) of the references by name of the rule, of unclipped log-probs per pair or from validation.

        Rules that move while training (swcw, tsw) have no weights of their own afterwards: uniform ones measure them.
        """
        if kind in ("uniform", *MOVING):
            return references.uniform(len(names))
        if kind[0].isdigit():
            return references.share(float(kind), len(names))
        where, of = (split, picks) if kind == "arwc" else ("validation", validation)
        t = self.table(names, where, of)
        t = t.normalized() if normalized else t
        return {"arwc": references.arwc, "vdw": references.vdw, "vaw": references.vaw}[kind](t.chosen - t.rejected)

    def reference(self, spec: Spec, names: Sequence[str], split: str, picks: Sequence[Choice], validation: Sequence[Choice]) -> tuple[Tensor, Tensor]:
        """The log-probs (B,) that the arm compares the policy with; Multi-DPO reports against the primary."""
        t = self.table(names, split, picks)
        t = t.normalized() if spec.normalized else t
        if spec.kind != "virtual":
            row = 1 if spec.kind == "second" else 0
            return t.chosen[row], t.rejected[row]
        a = self.weights_of(spec.weights, names, split, picks, validation, normalized=spec.normalized)
        return references.combine(t.chosen, t.rejected, a, mean=spec.mean, epsilon=self._epsilon(spec), adaptive=spec.adaptive, swap_weights=spec.swap)

    def _epsilon(self, spec: Spec) -> float | None:
        return None if not spec.clip else self.cfg.epsilon if spec.epsilon is None else spec.epsilon

    def loss(self, spec: Spec, names: Sequence[str], t: Task) -> Loss:
        """The arm's loss over the task's training pairs, its references' log-probs looked up once."""
        if spec.weights in MOVING:
            return self._moving(spec, names, t)
        if spec.normalized:
            w, l = self.reference(spec, names, "train", t.train, t.validation)
            n, beta = gather(self.tokens["train"], t.train), self.cfg.beta * self.tokens["train"].mean().item()
            on = lambda x, like: x.to(like.device)  # noqa: E731
            return lambda pi_w, pi_l, i: dpo(pi_w / on(n[0][i], pi_w), pi_l / on(n[1][i], pi_l), on(w[i], pi_w), on(l[i], pi_l), beta=beta)
        if spec.kind != "multi":
            w, l = self.reference(spec, names, "train", t.train, t.validation)
            return lambda pi_w, pi_l, i: dpo(pi_w, pi_l, w[i].to(pi_w.device), l[i].to(pi_w.device), beta=self.cfg.beta)
        table, a = self.table(names, "train", t.train), self.weights_of(spec.weights, names, "train", t.train, t.validation)
        w, l = references.clipped(table.chosen, table.rejected, epsilon=self.cfg.epsilon, adaptive=True)  # as the release does
        a = a if a.ndim == 2 else a[:, None].expand(-1, len(t.train))
        return lambda pi_w, pi_l, i: references.multi_dpo(pi_w, pi_l, *(x[:, i].to(pi_w.device) for x in (w, l, a)), beta=self.cfg.beta)

    def _moving(self, spec: Spec, names: Sequence[str], t: Task) -> Loss:
        """Losses whose weights move while the policy trains: the sliding window (by the batch before) and Thompson sampling (by
        whether a step against one reference raised the accuracy on a fresh quarter of the validation pairs)."""
        table, beta, last = self.table(names, "train", t.train), self.cfg.beta, {}
        bandit = references.Thompson(len(names), prior=self.cfg.prior, generator=seeding.torch_generator(self.cfg.seed, "bandit"))
        rng = seeding.numpy_rng(self.cfg.seed, "bandit validation")

        def sliding(pi_w, pi_l, i):
            a = references.swcw(last.get("margins"), len(names), one_hot=spec.weights == "swcw-onehot")
            last["margins"] = table.chosen[:, i] - table.rejected[:, i]
            w, l = references.combine(table.chosen[:, i], table.rejected[:, i], a, mean=spec.mean, epsilon=self._epsilon(spec), adaptive=spec.adaptive)
            return dpo(pi_w, pi_l, w.to(pi_w.device), l.to(pi_w.device), beta=beta)

        def thompson(pi_w, pi_l, i):
            if last:
                bandit.update(last["k"], last["before"], self.accuracy("validation", last["pairs"]))
            last["pairs"] = [t.validation[j] for j in rng.permutation(len(t.validation))[: max(1, len(t.validation) // 4)]]
            last["before"], last["k"] = self.accuracy("validation", last["pairs"]), bandit.draw()
            return dpo(pi_w, pi_l, *(x[last["k"], i].to(pi_w.device) for x in table[:2]), beta=beta)

        return thompson if spec.weights == "tsw" else sliding

    def make_references(self, t: Task) -> None:
        """Train and store the references of a task: "complementary" (the same oracle, its own pairs) and "equal" (own samples, no oracle)."""
        primary = self.table(["base"], "train", t.reference)
        loss = lambda w, l, i: dpo(w, l, primary.chosen[0, i].to(w.device), primary.rejected[0, i].to(w.device), beta=self.cfg.beta)  # noqa: E731
        coin = seeding.numpy_rng(self.cfg.seed, "coin").random(len(t.reference)) < 0.5
        blind = [c._replace(chosen=c.rejected, rejected=c.chosen) if heads else c for c, heads in zip(t.reference, coin)]
        own = lambda w, l, i: Preference(-w / self.tokens["train"].mean(), w.detach(), l.detach())  # noqa: E731
        for name, picks, objective in (("complementary", t.reference, loss), ("equal", blind, own)):
            self.fit(picks, objective, lr=self.cfg.lr, steps=self.steps(len(picks)), desc=f"{name} reference, {t.name}")
            self.weights[name] = self.snapshot()
        for key in [k for k in self.matrices if k[0] != "base"]:
            del self.matrices[key]

    def steps(self, n: int) -> int:
        """Optimizer steps of `epochs` passes over n pairs."""
        return max(1, round(self.cfg.epochs * n / self.cfg.batch))

    def tune(self, arm: str, names: Sequence[str], t: Task, lrs: Sequence[float]) -> None:
        """Accuracy on the validation pairs of an arm trained at each learning rate; test pairs are not touched."""
        for lr in lrs:
            self._train(ARMS[arm], arm, names, t, lr)
            self.run.metric("tuning", t.name, arm, f"validation accuracy at {lr:g}", self.validate(names[0], t), n=len(t.validation))

    def validate(self, primary: str, t: Task) -> float:
        """Share of validation pairs whose margin against the primary is positive."""
        table, (w, l) = self.table([primary], "validation", t.validation), gather(self.score("validation"), t.validation)
        return (w - table.chosen[0] > l - table.rejected[0]).double().mean().item()

    def _train(self, spec: Spec, label: str, names: Sequence[str], t: Task, lr: float) -> list[dict]:
        teacher = self.chosen_states(names[1], t.train) if spec.kd else None
        return self.fit(
            t.train, self.loss(spec, names, t), lr=lr, steps=self.steps(len(t.train)), start=names[0], desc=f"{t.name}: {label}", teacher=teacher,
            teacher_weight=self.cfg.kd_weight if spec.kd else 0.0,
        )  # fmt: skip

    def run_arm(
        self, arm: str, names: Sequence[str], t: Task, *, label: str | None = None, samples: bool = False, **changes
    ) -> list[dict]:
        """Train one arm on a task against references `names` (the primary first), measure it, and record everything under `label`.

        changes: fields of its Spec that differ, for ablations.
        """
        spec, label, curve = ARMS[arm]._replace(**changes), label or arm, []
        if spec.swap and len(names) != 2:
            return curve  # the release's switch exists for two references
        with self.run.stage(f"{t.name}: {label}"):
            self.load(names[0])
            if spec.kind != "none":
                curve = self._train(spec, label, names, t, self.cfg.lr)
                self.run.curve(f"{t.name}: {label}", curve)
                self.run.metric("training", t.name, label, "largest gradient norm", max(r["gradient norm"] for r in curve), n=len(curve))
            own = self.reference(spec, names, "test", t.test, t.validation)
            self.measure(label, t.name, t.test, table=self.table(names, "test", t.test), own=own, policy=self.score("test"))
            if samples:
                self.generated(label, t.name, t.name, to=[n for n in names if n in self.weights])
        return curve

    def measure(self, arm: str, name: str, picks: Sequence[Choice], *, table: references.Table, own: tuple[Tensor, Tensor], policy: Tensor) -> None:
        """Held-out accuracy four ways and the margin, per prompt, of the policy whose candidate log-probs are `policy`.

        own: the method's reference log-probs; table: row 0 is the primary. Strictly greater counts, so the base scores 0 against itself.
        """
        w, l = gather(policy, picks)
        lengths = table.chosen_tokens[0], table.rejected_tokens[0]
        primary = (w - table.chosen[0]) - (l - table.rejected[0])
        hits = {
            "accuracy, own reference": (w - own[0]) - (l - own[1]) > 0,
            "accuracy, primary reference": primary > 0,
            "accuracy, reference-free sum": w > l,
            "accuracy, reference-free mean": w / lengths[0] > l / lengths[1],
            "margin, nats": primary,
        }
        ids = [self.splits["test"].prompts[c.row].id for c in picks]
        names, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
        for metric, values in hits.items():
            mean = np.bincount(place, weights=values.double().numpy()) / counts
            self.run.items(f"held-out {name}", arm, metric, names, mean, weights=counts)
            self.run.metric("accuracy", f"held-out {name}", arm, metric, np.average(mean, weights=counts), n=len(picks))

    def concentration(self, t: Task, seconds: Sequence[str]) -> None:
        """How much weight each rule gives every second reference beside the primary, on training pairs."""
        for second in (n for n in seconds if n == "mis-scored" or n in self.weights):
            for rule in ("arwc", "vdw", "vaw"):
                a = self.weights_of(rule, ["base", second], "train", t.train, t.validation)[1]
                self.run.metric("weights", t.name, second, rule, a.mean().item())
                if rule == "arwc":
                    self.run.items(f"weights {t.name}", second, "arwc", range(len(a)), a.tolist())

    def questions(self, arm: str, task: dict) -> None:
        """lm-eval's multiple choice with the policy as it stands: what a preference for style costs in knowledge."""
        got = multiple_choice(self.model, self.tokenizer, task, batch_size=16)
        self.run.items("questions", arm, "accuracy", got.ids, got.correct)

    def generated(self, arm: str, name: str, reward: str, *, to: Sequence[str]) -> None:
        """True reward of answers sampled from the policy as it stands, and their KL to stored models: E log pi - log pi_k."""
        c = self.splits["test"]
        generator = seeding.torch_generator(self.cfg.seed, "evaluation samples")
        done = generate(
            self.model, c.ids, temperature=1.0, generator=generator, max_new_tokens=self.cfg.tokens, stop_ids=self.stop, batch=self.cfg.generation_batch
        )
        ids, texts = [p.id for p in c.prompts], [self.tokenizer.decode(x.tokens, skip_special_tokens=True) for x in done]
        self.run.items(f"samples {name}", arm, "true reward", ids, score(reward, texts).tolist())
        self.run.items(f"samples {name}", arm, "length", ids, [len(x.tokens) for x in done])
        own, before = torch.tensor([sum(x.logprobs) for x in done]), self.snapshot()
        for k in to:
            self.load(k)
            other = completion_logprobs(self.model, c.ids, [x.tokens for x in done], batch=self.cfg.eval_batch)[:, 0]
            self.run.items(f"samples {name}", arm, f"KL to {k}", ids, (own - other).tolist())
        self.weights["_"] = before
        self.load("_")

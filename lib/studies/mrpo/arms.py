"""The arms of the MRPO study: each is one line of a table that says how the loss uses the references, and all else is
equal.

`Study` trains an arm on a task and measures it; models, candidates and references are
`lib.studies.mrpo.multi_reference`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib import scoring
from lib.data import Comparison, Prompt, encode
from lib.engine import trunk
from lib.engine.generation import generate, recorded
from lib.harness import seeding
from lib.losses import dpo, references
from lib.scoring.likelihood import completion_logprobs
from lib.scoring.oracles import score
from lib.studies.mrpo.candidates import Choice, gather
from lib.studies.mrpo.multi_reference import Loss, Task, World

MOVING = ("swcw", "swcw-onehot", "tsw")  # weights that change while the policy trains


class Spec(NamedTuple):
    """How an arm uses its references; every arm has the same data, steps and learning rate."""

    kind: str  # none, primary, second, multi or virtual: which references enter the loss
    mean: str = "harmonic"
    weights: str = (
        "arwc"  # arwc, uniform, vaw, vdw, swcw, swcw-onehot, tsw, or the second reference's fixed share as a number
    )
    clip: bool = True  # CTRO
    epsilon: float | None = None  # of the clipping; None: the setting's
    adaptive: bool = True
    normalized: bool = False  # log-probs per token on both sides, beta times the mean answer length
    swap: bool = False  # the release's swapped weights
    kd: bool = False  # adds KL to the second reference


ARMS = {
    "base": Spec("none"), "dpo": Spec("primary"), "single": Spec("second"), "kd": Spec("primary", kd=True),
    "multi-dpo": Spec("multi"),
    "mrpo": Spec("virtual"), "mrpo-swapped": Spec("virtual", swap=True), "mrpo-unclipped": Spec("virtual", clip=False),
    "mrpo-uniform": Spec("virtual", weights="uniform"), "mrpo-vaw": Spec("virtual", weights="vaw"),
    "mrpo-vdw": Spec("virtual", weights="vdw"),
    "geometric": Spec("virtual", mean="geometric", clip=False),
    "arithmetic": Spec("virtual", mean="arithmetic", clip=False),
    "mrpo-normalized": Spec("virtual", normalized=True),
    **{f"mrpo-{w}": Spec("virtual", weights=w) for w in ("0.1", "0.9", "swcw", "swcw-onehot", "tsw")},
}  # fmt: skip


class Study(World):
    """A world whose arms are trained and measured; results go to its run."""

    def weights_of(
        self,
        kind: str,
        names: Sequence[str],
        split: str,
        picks: Sequence[Choice],
        validation: Sequence[Choice],
        *,
        normalized: bool = False,
    ) -> Tensor:
        """Weights (K,) or (K, B) of the references by name of the rule, of unclipped log-probs per pair or from
        validation.

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

    def reference(
        self, spec: Spec, names: Sequence[str], split: str, picks: Sequence[Choice], validation: Sequence[Choice]
    ) -> tuple[Tensor, Tensor]:
        """The log-probs (B,) that the arm compares the policy with; Multi-DPO reports against the primary."""
        t = self.table(names, split, picks)
        t = t.normalized() if spec.normalized else t
        if spec.kind != "virtual":
            row = 1 if spec.kind == "second" else 0
            return t.chosen[row], t.rejected[row]
        a = self.weights_of(spec.weights, names, split, picks, validation, normalized=spec.normalized)
        return references.combine(
            t.chosen,
            t.rejected,
            a,
            mean=spec.mean,
            epsilon=self._epsilon(spec),
            adaptive=spec.adaptive,
            swap_weights=spec.swap,
        )

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
            return lambda pi_w, pi_l, i: dpo(
                pi_w / on(n[0][i], pi_w), pi_l / on(n[1][i], pi_l), on(w[i], pi_w), on(l[i], pi_l), beta=beta
            )
        if spec.kind != "multi":
            w, l = self.reference(spec, names, "train", t.train, t.validation)
            return lambda pi_w, pi_l, i: dpo(pi_w, pi_l, w[i].to(pi_w.device), l[i].to(pi_w.device), beta=self.cfg.beta)
        table, a = (
            self.table(names, "train", t.train),
            self.weights_of(spec.weights, names, "train", t.train, t.validation),
        )
        w, l = references.clipped(
            table.chosen, table.rejected, epsilon=self.cfg.epsilon, adaptive=True
        )  # as the release does
        a = a if a.ndim == 2 else a[:, None].expand(-1, len(t.train))
        return lambda pi_w, pi_l, i: references.multi_dpo(
            pi_w, pi_l, *(x[:, i].to(pi_w.device) for x in (w, l, a)), beta=self.cfg.beta
        )

    def _moving(self, spec: Spec, names: Sequence[str], t: Task) -> Loss:
        """Losses whose weights move while the policy trains: the sliding window (by the batch before) and Thompson
        sampling (by whether a step against one reference raised the accuracy on a fresh quarter of the validation
        pairs)."""
        table, beta, last = self.table(names, "train", t.train), self.cfg.beta, {}
        bandit = references.Thompson(
            len(names), prior=self.cfg.prior, generator=seeding.torch_generator(self.cfg.seed, "bandit")
        )
        rng = seeding.numpy_rng(self.cfg.seed, "bandit validation")

        def sliding(pi_w, pi_l, i):
            a = references.swcw(last.get("margins"), len(names), one_hot=spec.weights == "swcw-onehot")
            last["margins"] = table.chosen[:, i] - table.rejected[:, i]
            w, l = references.combine(
                table.chosen[:, i],
                table.rejected[:, i],
                a,
                mean=spec.mean,
                epsilon=self._epsilon(spec),
                adaptive=spec.adaptive,
            )
            return dpo(pi_w, pi_l, w.to(pi_w.device), l.to(pi_w.device), beta=beta)

        def thompson(pi_w, pi_l, i):
            if last:
                bandit.update(last["k"], last["before"], self.accuracy("validation", last["pairs"]))
            last["pairs"] = [
                t.validation[j] for j in rng.permutation(len(t.validation))[: max(1, len(t.validation) // 4)]
            ]
            last["before"], last["k"] = self.accuracy("validation", last["pairs"]), bandit.draw()
            return dpo(pi_w, pi_l, *(x[last["k"], i].to(pi_w.device) for x in table[:2]), beta=beta)

        return thompson if spec.weights == "tsw" else sliding

    def tune(self, arm: str, names: Sequence[str], t: Task, lrs: Sequence[float]) -> None:
        """Accuracy on the validation pairs of an arm trained at each learning rate; test pairs are not touched."""
        for lr in lrs:
            self._train(ARMS[arm], arm, names, t, lr)
            self.run.metric(
                "tuning", t.name, arm, f"validation accuracy at {lr:g}", self.validate(names[0], t), n=len(t.validation)
            )

    def validate(self, primary: str, t: Task) -> float:
        """Share of validation pairs whose margin against the primary is positive."""
        table, (w, l) = (
            self.table([primary], "validation", t.validation),
            gather(self.score("validation", self.needed("validation", t.validation)), t.validation),
        )
        return (w - table.chosen[0] > l - table.rejected[0]).double().mean().item()

    def _train(self, spec: Spec, label: str, names: Sequence[str], t: Task, lr: float) -> list[dict]:
        teacher = self.chosen_states(names[1], t.train) if spec.kd else None
        return self.fit(
            t.train, self.loss(spec, names, t), lr=lr, steps=self.steps(len(t.train)), start=names[0],
            desc=f"{t.name}: {label}", teacher=teacher,
            teacher_weight=self.cfg.kd_weight if spec.kd else 0.0,
        )  # fmt: skip

    def run_arm(
        self, arm: str, names: Sequence[str], t: Task, *, label: str | None = None, samples: bool = False, **changes
    ) -> list[dict]:
        """Train one arm on a task against references `names` (the primary first), measure it, and record everything
        under `label`.

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
                self.run.metric(
                    "training",
                    t.name,
                    label,
                    "largest gradient norm",
                    max(r["gradient norm"] for r in curve),
                    n=len(curve),
                )
            own, needed = self.reference(spec, names, "test", t.test, t.validation), self.needed("test", t.test)
            policy = self.matrix(names[0], "test", needed) if spec.kind == "none" else self.score("test", needed)
            self.measure(label, t.name, t.test, table=self.table(names, "test", t.test), own=own, policy=policy)
            if samples:
                self.generated(label, t, to=[n for n in names if n in self.weights])
        return curve

    def measure(
        self,
        arm: str,
        name: str,
        picks: Sequence[Choice],
        *,
        table: references.Table,
        own: tuple[Tensor, Tensor],
        policy: Tensor,
    ) -> None:
        """Held-out accuracy four ways and the margin, per prompt, of the policy whose candidate log-probs are `policy`.

        own: the method's reference log-probs; table: row 0 is the primary. Strictly greater counts, so the base scores
        0 against itself.
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
        for second in (n for n in seconds if n == "mis-scored" or n in self.weights or (n, "train") in self.counts):
            for rule in ("arwc", "vdw", "vaw"):
                a = self.weights_of(rule, ["base", second], "train", t.train, t.validation)[1]
                self.run.metric("weights", t.name, second, rule, a.mean().item())
                if rule == "arwc":
                    self.run.items(f"weights {t.name}", second, "arwc", range(len(a)), a.tolist())

    def questions(self, arm: str, task: dict) -> None:
        """lm-eval's multiple choice with the policy as it stands: what a preference for style costs in knowledge."""
        got = scoring.multiple_choice(self.model, self.tokenizer, task, batch_size=16)
        self.run.items("questions", arm, "accuracy", got.ids, got.correct)

    def benchmarks(self, arm: str, tasks: Sequence[str], include: Path | None = None) -> None:
        """lm-eval's own tasks with the policy as it stands."""
        for name, found in scoring.benchmarks(
            self.model, self.tokenizer, tasks, batch_size=self.cfg.eval_batch, include=include
        ).items():
            for metric, value in found.items():
                self.run.metric("benchmarks", name, arm, metric, value)

    def transfer(self, arm: str, name: str, pairs: Sequence[Comparison]) -> None:
        """Accuracy on preferences of people, which nothing here was trained on, with the policy as it stands: no
        reference enters."""
        prompts = encode(self.tokenizer, [Prompt(str(i), name, p.text, "test", p.prompt) for i, p in enumerate(pairs)])
        chosen, rejected = (
            [[*self.tokenizer.encode(pair[k], add_special_tokens=False), self.stop[0]] for pair in pairs]
            for k in (1, 2)
        )
        w, l = completion_logprobs(self.model, prompts, chosen, rejected, batch=self.cfg.eval_batch).unbind(1)
        tokens = (torch.tensor([len(a) for a in side]) for side in (chosen, rejected))
        self.run.items(
            f"transfer {name}", arm, "accuracy, reference-free sum", range(len(pairs)), (w > l).double().tolist()
        )
        self.run.items(
            f"transfer {name}",
            arm,
            "accuracy, reference-free mean",
            range(len(pairs)),
            (w / next(tokens) > l / next(tokens)).double().tolist(),
        )

    def generated(self, arm: str, t: Task, *, to: Sequence[str]) -> None:
        """True reward (where it is known) of answers sampled from the policy as it stands, and their KL to stored
        models: E log pi - log pi_k."""
        c = self.splits["test"].part(t.category)
        done = self.base_answers.get(t.category) if arm == "base" else None
        if done is None:
            generator = seeding.torch_generator(self.cfg.seed, "evaluation samples")
            done = generate(
                self.model,
                c.ids,
                temperature=1.0,
                generator=generator,
                max_new_tokens=self.cfg.tokens,
                stop_ids=self.stop,
                batch=self.cfg.generation_batch,
                watch=trunk.end(self.model, self.cfg.blocks),
            )
        if arm == "base":
            self.base_answers[t.category] = done
        ids, texts = (
            [p.id for p in c.prompts],
            [self.tokenizer.decode(x.tokens, skip_special_tokens=True) for x in done],
        )
        name = f"samples {t.name}"
        if not t.category:
            self.run.items(name, arm, "true reward", ids, score(t.name, texts).tolist())
        self.run.items(name, arm, "length", ids, [len(x.tokens) for x in done])
        own, before = torch.tensor([sum(x.logprobs) for x in done]), self.snapshot()
        rows = [(p, [x.tokens]) for p, x in zip(c.ids, done)]
        pieces = [recorded([x]) for x in done]  # the same for all references
        for k in to:
            self.load(k)
            self.run.items(name, arm, f"KL to {k}", ids, (own - self.under_top(rows, pieces)).tolist())
        self.weights["_"] = before
        self.load("_")

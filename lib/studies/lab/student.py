"""A language model that is taught rows of question and answer, and sits exams: its last blocks learn, the others are
run once a row (`lib.engine.trunk`).

Every question is asked in the model's own chat template, in training and in exams alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lib.data import chat
from lib.engine import trunk
from lib.engine.generation import generate
from lib.engine.head import head_of
from lib.engine.latents import Full, Latent
from lib.engine.logprobs import Packed, greedy_tokens, hidden_states, sum_logprob, token_logprobs
from lib.engine.merging import Weights
from lib.engine.models import end_of_turn
from lib.engine.phases import Row, pack_rows
from lib.harness import workers
from lib.quantization import block_linears
from lib.synthesis.exams import Question
from lib.synthesis.pipelines import shown_context

PART = 128  # rows that a process reads


class Exam(NamedTuple):
    """Questions with their answers' ids and what the frozen blocks make of them: computed once, scored as often as the
    student has changed."""

    questions: tuple[Question, ...]
    rows: list[tuple[list[int], list[list[int]]]]
    states: list[list[Tensor]]


class Student:
    """`blocks`: how many of the last ones learn; `system`: the system prompt of every question; `batch`: rows of a
    forward outside of training."""

    def __init__(self, model, tokenizer, *, blocks: int, system: str, stop_ids: Sequence[int], batch: int):
        self.model, self.tokenizer, self.system, self.stop, self.batch = model, tokenizer, system, list(stop_ids), batch
        self.end = end_of_turn(tokenizer, stop_ids)
        self.lower, self.top = trunk.split(model, blocks)
        self.head = head_of(self.top)
        self.latent = Latent(block_linears(self.top), lambda w: Full(w, None))
        self.begin = self.weights()
        self.known: dict[Row, Tensor] = {}  # row -> its (T, D) states under the frozen blocks

    # ---- rows

    def prompt(self, question: str, context: str = "") -> tuple[int, ...]:
        """Token ids up to where the answer begins."""
        turns = [
            {"role": "system", "content": self.system},
            {"role": "user", "content": f"{context}\n\n{question}" if context else question},
        ]
        return tuple(chat(self.tokenizer, turns))

    def answer(self, text: str) -> tuple[int, ...]:
        """Token ids of an answer and of its end."""
        return (*self.tokenizer.encode(text, add_special_tokens=False), self.end)

    def rows(self, data: Sequence[dict]) -> list[Row]:
        """(prompt ids, answer ids) of rows with question, answer and context; knowledge is asked without its document.
        The frozen blocks read them now."""
        out = [(self.prompt(d["question"], shown_context(d)), self.answer(d["answer"])) for d in data]
        new = [r for r in dict.fromkeys(out) if r not in self.known]
        for row, pieces in zip(new, self._read([(list(p), [list(a)]) for p, a in new])):
            self.known[row] = torch.cat(pieces)
        return out

    def _read(self, rows: list) -> list[list[Tensor]]:
        """`trunk.states` of the rows, side by side, PART at a time; each part holds short and long ones."""
        n, out = -(-len(rows) // PART), [[]] * len(rows)
        sizes = [len(prompt) + sum(map(len, answers)) for prompt, answers in rows]
        order = sorted(range(len(rows)), key=sizes.__getitem__)
        parts = {f"part {k + 1} of {n}": order[k::n] for k in range(n)}
        read = partial(trunk.states, self.lower, batch=self.batch)
        jobs = {name: partial(read, [rows[i] for i in part]) for name, part in parts.items()}
        for name, pieces in workers.each(jobs, desc="reading") if jobs else ():
            for i, x in zip(parts[name], pieces):
                out[i] = x
        return out

    def loss(self, sequences: Sequence[Sequence[Row]]) -> Tensor:
        """Summed -log p of the answers of rows that were read, as `phases.run` asks for it."""
        packed = pack_rows(sequences).to(self.top.device)
        return -token_logprobs(self._hidden(packed, sequences), self.head, packed.target).sum()

    def logp(self, rows: Sequence[Row]) -> Tensor:
        """Summed log p of each row's answer, (N,), with a gradient where one is asked for."""
        packed = pack_rows([[r] for r in rows]).to(self.top.device)
        logp = token_logprobs(self._hidden(packed, [[r] for r in rows]), self.head, packed.target)
        return sum_logprob(logp, packed.branch, packed.branches)

    def _hidden(self, packed, sequences: Sequence[Sequence[Row]]) -> Tensor:
        states = [torch.cat([self.known[r] for r in rows]) for rows in sequences]
        embeds = nn.utils.rnn.pad_sequence(states, batch_first=True)
        return hidden_states(self.top, packed, embeds.to(self.top.device))

    # ---- exams

    def exam(self, questions: Sequence[Question]) -> Exam:
        """The questions as this student reads them: each once, with its right and wrong answers as branches."""
        rows = [(list(self.prompt(q.question, q.context)), self._branches(q)) for q in questions]
        return Exam(tuple(questions), rows, self._read(rows))

    def _branches(self, q: Question) -> list[list[int]]:
        begins = [self.answer(text)[:-1] for text in q.begins]  # what follows is left open
        return [list(x) for x in (*map(self.answer, q.right), *begins, *map(self.answer, q.wrong))]

    def _batches(self, exam: Exam) -> Iterator[tuple[list[int], Packed, Tensor]]:
        """(questions by number, their packed answers, the states that predict them), a batch at a time, shortest
        first."""
        order = sorted(range(len(exam.rows)), key=lambda i: sum(map(len, exam.states[i])))
        for i in range(0, len(order), self.batch):
            at = order[i : i + self.batch]
            yield at, *trunk.top_states(self.top, [exam.rows[j] for j in at], [exam.states[j] for j in at])

    def _by_question(self, exam: Exam, at: Sequence[int], values: Tensor) -> Iterator[tuple[int, np.ndarray]]:
        return zip(at, np.split(values.cpu().numpy(), np.cumsum([len(exam.rows[j][1]) for j in at])[:-1]))

    @torch.inference_mode()
    def likelihoods(self, exam: Exam) -> list[np.ndarray]:
        """Of each question, the summed log p (nats) of every answer (right, beginnings, wrong)."""
        out = {}
        for at, packed, hidden in self._batches(exam):
            logp = token_logprobs(hidden, self.head, packed.target)
            out |= self._by_question(exam, at, sum_logprob(logp.double(), packed.branch, packed.branches))
        return [out[j] for j in range(len(exam.rows))]

    @torch.inference_mode()
    def greedy(self, exam: Exam) -> list[np.ndarray]:
        """Of each question, whether greedy decoding would give every answer (right, beginnings, wrong) to its end."""
        out = {}
        for at, packed, hidden in self._batches(exam):
            first = torch.ones_like(packed.branch, dtype=torch.bool)
            first[1:] = packed.branch[1:] != packed.branch[:-1]
            good = torch.ones(packed.branches, dtype=torch.bool, device=hidden.device)
            for part in (first, ~first):  # most wrong answers begin wrongly, and the vocabulary is the dear part
                which = (part & good[packed.branch]).nonzero()[:, 0]
                wrong = greedy_tokens(hidden[which], self.head) != packed.target[which]
                good[packed.branch[which[wrong]]] = False
            out |= self._by_question(exam, at, good)
        return [out[j] for j in range(len(exam.rows))]

    def score(self, exam: Exam) -> np.ndarray:
        """1 for a right answer, (N,): of a question with wrong answers to choose from, the likeliest by summed log p is
        right (lm-eval's acc); else greedy decoding gives one of the right answers, word for word, or begins with what
        suffices."""
        choices = np.array([bool(q.wrong) for q in exam.questions], bool)
        logp: Any = self.likelihoods(exam) if choices.any() else [None] * len(choices)
        said: Any = self.greedy(exam) if not choices.all() else [None] * len(choices)
        right = [lp.argmax() < len(q.right) if q.wrong else s.any() for q, lp, s in zip(exam.questions, logp, said)]
        return np.array(right, float)

    def write(self, questions: Sequence[Question], *, max_new_tokens: int, batch: int) -> list[str]:
        """The student's greedy answers."""
        asked = [self.prompt(q.question, q.context) for q in questions]
        done = generate(self.model, asked, max_new_tokens=max_new_tokens, stop_ids=self.stop, batch=batch)
        return [self.tokenizer.decode(c.tokens, skip_special_tokens=True).strip() for c in done]

    # ---- plain text

    def plain(self, texts: Sequence[str]) -> Exam:
        """Plain text, without a template: what the model should not lose. Its first token is the prompt."""
        ids = [self.tokenizer(t).input_ids for t in texts]
        rows = [(x[:1], [x[1:]]) for x in ids]
        return Exam((), rows, self._read(rows))

    def text_loss(self, text: Exam) -> np.ndarray:
        """Mean -log p of a token of each text, (N,) nats: the exponential of the mean is the perplexity."""
        return np.array([-lp[0] / len(branches[0]) for lp, (_, branches) in zip(self.likelihoods(text), text.rows)])

    # ---- weights

    def weights(self) -> Weights:
        """Copies of the weights that learn, float32, on the CPU."""
        return {n: w.cpu() for n, w in zip(self.latent.linears, self.latent.snapshot())}

    def load(self, weights: Weights | None) -> None:
        """These weights, or those it began with."""
        self.latent.restore([(self.begin if weights is None else weights)[n] for n in self.latent.linears])

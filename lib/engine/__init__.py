"""What loads, runs and trains a language model: one fast path for log-probabilities, sampling and optimisation, used by
every study.

A training is `fit(latent, batches, loss, how)`: the weights that learn (`Latent` of `Full` or `LoRA`), which examples
come next (`epochs`), the objective (`preference`, `supervised`, `distillation`) and the optimizer (`AdamW`).
"""

from lib.engine.generation import Completion, Sampling, generate
from lib.engine.latents import Full, Latent, LoRA
from lib.engine.logprobs import hidden_states, pack, token_logprobs
from lib.engine.models import end_of_turn, load, stop_ids, tiny_random
from lib.engine.objectives import distillation, preference, supervised
from lib.engine.training import AdamW, epochs, fit

__all__ = [
    "AdamW",
    "Completion",
    "Full",
    "Latent",
    "LoRA",
    "Sampling",
    "distillation",
    "end_of_turn",
    "epochs",
    "fit",
    "generate",
    "hidden_states",
    "load",
    "pack",
    "preference",
    "stop_ids",
    "supervised",
    "tiny_random",
    "token_logprobs",
]

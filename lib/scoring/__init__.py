"""What an answer or a model is worth: log-likelihoods and pairwise judges, task accuracy, metrics of text and of
distributions, rewards."""

from lib.scoring.flipping import Fidelity
from lib.scoring.likelihood import (
    Likelihood,
    PromptedJudge,
    completion_logprobs,
    judge_both_orders,
    load_judge,
    pair_logprobs,
    reference_logprobs,
)
from lib.scoring.tasks import (
    Accuracy,
    answer_flips,
    benchmarks,
    check_tasks,
    load_task,
    multiple_choice,
)

__all__ = [
    "Accuracy",
    "Fidelity",
    "Likelihood",
    "PromptedJudge",
    "answer_flips",
    "benchmarks",
    "check_tasks",
    "completion_logprobs",
    "judge_both_orders",
    "load_judge",
    "load_task",
    "multiple_choice",
    "pair_logprobs",
    "reference_logprobs",
]

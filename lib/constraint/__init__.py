"""Steering away from an attribute: the closest distribution that satisfies a constraint (`nado`), and the world in
which it is exact (`tabular`)."""

from lib.constraint.nado import (
    DIRECTIONS,
    STYLES,
    Nado,
    bernoulli_kl,
    consistency,
    constraint_kl,
    expected_success,
    followers,
    head_kl,
    importance,
    learn,
    policy_gradient,
    prefix_bce,
    soft_weight,
    steered,
    subtrajectory_balance,
)

__all__ = [
    "DIRECTIONS",
    "STYLES",
    "Nado",
    "bernoulli_kl",
    "consistency",
    "constraint_kl",
    "expected_success",
    "followers",
    "head_kl",
    "importance",
    "learn",
    "policy_gradient",
    "prefix_bce",
    "soft_weight",
    "steered",
    "subtrajectory_balance",
]

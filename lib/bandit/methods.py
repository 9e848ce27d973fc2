"""The methods compared: each is a row of a table, and what it asks for and when follows from its row by counting.

arXiv 2411.01493, Table 1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from math import ceil, floor
from typing import NamedTuple

from lib import losses


class Method(NamedTuple):
    """What a method does differently; the default is passive online preference optimization (variant 1)."""

    explore: str = "passive"  # passive, random, bai, ets, uncertainty, drts, deltaucb, certainty, entropy
    source: str = "policy"  # who answers: policy, start, or both (one each)
    learn: str = "policy"  # policy, heads, or both
    synthetic: float = 0.0  # share of the pairs that a drawn head labels, after burn-in
    skip: float = (
        0.0  # share of the prompts left out after burn-in: the queries a step of that share of synthetic pairs
    )
    act: str = "policy"  # who is evaluated: policy, or the heads' best of N answers of policy or start: bon, bon-start
    # of which difference the variance over the heads is taken: sigma as the paper prints, logit as its release computes
    spread: str = "sigma"
    bonus: str = "none"  # optimism on the start's answers: none, xpo, selm
    loss: str = ""  # policy loss; empty: the setting's
    taught: str = "labels"  # what the heads know: labels, coins (their labels are tossed), truth (the true rewards)


METHODS = {
    "offline": Method(source="start"),
    "passive": Method(),  # 1 of the paper's Table 1
    "passive-matched": Method(skip=0.3),  # in every round as many queries as with 30 % synthetic pairs
    "random": Method(explore="random"),
    "bai": Method(explore="bai", learn="both"),  # 2
    "sea": Method(explore="bai", learn="both", synthetic=0.3),  # 3
    "passive-bon": Method(explore="random", learn="both", act="bon"),  # 4
    "bai-bon": Method(explore="bai", learn="both", act="bon"),  # 5
    "sea-bon": Method(explore="bai", learn="both", synthetic=0.3, act="bon"),  # 6
    "heads-only": Method(explore="ets", learn="heads", source="start", act="bon-start"),  # 7, EE4LLM
    "bai-logit": Method(explore="bai", learn="both", spread="logit"),
    "sea-logit": Method(explore="bai", learn="both", synthetic=0.3, spread="logit"),
    "ets": Method(explore="ets", learn="both"),
    "sea-ets": Method(explore="ets", learn="both", synthetic=0.3),
    "uncertainty": Method(explore="uncertainty", learn="both"),
    "uncertainty-logit": Method(explore="uncertainty", learn="both", spread="logit"),
    "drts": Method(explore="drts", learn="both", synthetic=0.3),  # ActiveUltraFeedback's two rules in SEA's loop
    "deltaucb": Method(explore="deltaucb", learn="both", synthetic=0.3),
    "random-sea": Method(explore="random", learn="both", synthetic=0.3),  # SEA without its choice
    "sea-coins": Method(explore="bai", learn="both", synthetic=0.3, spread="logit", taught="coins"),
    "sea-truth": Method(explore="bai", learn="both", synthetic=0.3, spread="logit", taught="truth"),
    "passive-again": Method(),  # other random numbers in the same worlds: how far apart two equal methods fall
    "passive-twice": Method(),  # twice the budget
    "xpo": Method(source="both", bonus="xpo"),
    "selm": Method(source="both", bonus="selm"),
    "apl-certainty": Method(explore="certainty"),
    "apl-entropy": Method(explore="entropy"),
    **{f"passive-{loss}": Method(loss=loss) for loss in ("slic", "ipo")},
    **{
        f"sea-logit-{loss}": Method(explore="bai", learn="both", synthetic=0.3, spread="logit", loss=loss)
        for loss in ("slic", "ipo")
    },
}


def policy_loss(name: str, *, beta: float) -> Callable:
    """loss(pi_w, pi_l, ref_w, ref_l, length_w, length_l) -> (B,): dpo, slic, ipo (summed log-probs) or ipo-mean (per
    token)."""
    plain = {"dpo": losses.dpo, "slic": losses.hinge, "ipo": losses.ipo_sum}
    if name == "ipo-mean":
        return lambda w, l, rw, rl, n, m: losses.ipo_mean(w, l, rw, rl, beta=beta, length_w=n, length_l=m).loss
    if name not in plain:
        raise ValueError(f"a policy loss is one of {', '.join([*plain, 'ipo-mean'])}, given {name!r}")
    return lambda w, l, rw, rl, n, m: plain[name](w, l, rw, rl, beta=beta).loss


def whole_share(of: float, size: int, k: int) -> int:
    """How many of `size` pairs make up the share `of` in the k-th of many rounds (from 0): whole numbers, each the
    floor or the ceiling of of * size, whose running sum is the floor of the exact one."""
    return floor(of * size * (k + 1) + 1e-9) - floor(of * size * k + 1e-9)


def prompts_of(method: Method, cfg, t: int) -> int:
    """Prompts of round t (from 0)."""
    return cfg.batch - (whole_share(method.skip, cfg.batch, t - cfg.burn_in) if t >= cfg.burn_in else 0)


def labelled_by_heads(method: Method, cfg, t: int) -> int:
    """Synthetic pairs of round t (from 0): none in burn-in."""
    return whole_share(method.synthetic, cfg.batch, t - cfg.burn_in) if t >= cfg.burn_in else 0


def rounds(method: Method, cfg, budget: int) -> int:
    """Rounds until `budget` queries are made: synthetic pairs cost none."""
    asked = t = 0
    while asked < budget:
        asked += prompts_of(method, cfg, t) - labelled_by_heads(method, cfg, t)
        t += 1
    return t


def check_shares(method: Method, batch: int) -> None:
    """ValueError if the shares are none, or leave a round without a prompt."""
    if not 0 <= method.synthetic < 1 or not 0 <= method.skip < 1 or method.synthetic and method.skip:
        raise ValueError(
            "the shares of synthetic pairs and of prompts left out lie in [0, 1) and one of them is 0, given "
            f"{method.synthetic} and {method.skip}"
        )
    if ceil(method.skip * batch - 1e-9) >= batch:
        raise ValueError(f"a round of {batch} prompts (batch) of which {method.skip:g} are left out can be empty")


def check(cfg) -> None:
    """ValueError before any work if the budget does not hold one round, or a method's round can be empty."""
    if cfg.budget < cfg.batch:
        raise ValueError(f"budget holds at least one round of {cfg.batch} queries (batch), given {cfg.budget}")
    arms = cfg.items_of("arms")
    if cfg.reward == "person" and len(arms) > 1:
        raise ValueError(f"a person answers for one method at a time: ARMS is one of {', '.join(arms)}")
    if cfg.reward == "person" and os.environ.get("PLUMBLINE_HEADLESS"):
        raise ValueError(
            "REWARD=person asks whoever sits before the notebook: open 50_sea in JupyterLab and run it there"
        )
    for arm in arms:
        check_shares(METHODS[arm], cfg.batch)

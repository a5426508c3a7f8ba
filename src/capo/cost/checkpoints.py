"""Write a checkpoint directory in the Hub's layout with everything but the weights."""

import json
import string
from pathlib import Path
from typing import Any

from capo.diffusion.architectures import PARTS, PIPELINES, Config

TINY = "tiny-"
SHRINKABLE = ("sd15", "sdxl", "sd3", "sd35", "sd35-large", "flux")
ARCHITECTURES = (*PARTS, *(f"{TINY}{name}" for name in SHRINKABLE))
SHRINK = 8
"""Tiny architectures divide widths and image sides by this, and depths too if the denoiser is a
transformer (whose number of text tokens stays the same). The ratio of the denoiser to the VAE and to the
text encoders stays about the same."""

_DEPTHS = {"num_layers", "num_single_layers", "num_hidden_layers"}
_WIDTHS = {
    "sample_size",
    "block_out_channels",
    "norm_num_groups",
    "cross_attention_dim",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "joint_attention_dim",
    "caption_projection_dim",
    "pooled_projection_dim",
    "pos_embed_max_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
}
_HEAD_WIDTH_CLASSES = ("SD3Transformer2DModel", "FluxTransformer2DModel")
"""Classes whose `attention_head_dim` is a width; in a UNet it is the number of heads."""


def write_checkpoint(architecture: str, folder: Path) -> Path:
    """Fill `folder` with the configurations and tokenizers of an architecture and return it.

    The tokenizers know only single characters. That suffices: the cost of a text encoder depends on the
    number of tokens, and prompts are padded to a fixed number. Raises `ValueError` for an unknown name.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"--arch: unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}")
    name = architecture.removeprefix(TINY)
    index: dict[str, Any] = {"_class_name": PIPELINES[name]}
    divided = _WIDTHS | _DEPTHS if "transformer" in PARTS[name] else _WIDTHS
    for part, (kind, config) in PARTS[name].items():
        if architecture.startswith(TINY):
            config = _shrunk(kind, config, divided)
        index[part] = _write_part(folder, part, kind, config)
        if part.startswith("text_encoder"):
            tokenizer = part.replace("text_encoder", "tokenizer")
            index[tokenizer] = _write_tokenizer(folder / tokenizer, kind)
    _write_json(folder / "model_index.json", index)
    return folder


def _shrunk(kind: str, config: Config, divided: set[str]) -> Config:
    small = {name: _divided(value) if name in divided else value for name, value in config.items()}
    if kind in _HEAD_WIDTH_CLASSES:
        small["attention_head_dim"] = config["attention_head_dim"] // SHRINK
    if "block_out_channels" in config:
        small["norm_num_groups"] = 32 // SHRINK
    if "axes_dims_rope" in config:
        small["axes_dims_rope"] = [4, 6, 6]  # even numbers whose sum is the width of a head
    if "dual_attention_layers" in config:
        small["dual_attention_layers"] = list(range(len(config["dual_attention_layers"]) // SHRINK))
    return small


def _divided(value: Any) -> Any:
    return [_divided(item) for item in value] if isinstance(value, list) else max(1, value // SHRINK)


def _write_part(folder: Path, part: str, kind: str, config: Config) -> list[str]:
    """Write the configuration file of a part; return the library and class for the index."""
    file = "scheduler_config.json" if part == "scheduler" else "config.json"
    if not part.startswith("text_encoder"):
        _write_json(folder / part / file, {"_class_name": kind, **config})
        return ["diffusers", kind]
    import transformers

    model_type = getattr(transformers, kind).config_class.model_type
    _write_json(folder / part / file, {"architectures": [kind], "model_type": model_type, **config})
    return ["transformers", kind]


def _write_tokenizer(folder: Path, encoder: str) -> list[str]:
    if encoder == "T5EncoderModel":
        tokenizer = _t5_tokenizer()
    else:
        tokenizer = clip_tokenizer() if encoder.startswith("CLIP") else _chat_tokenizer()
    tokenizer.save_pretrained(folder)
    return ["transformers", type(tokenizer).__name__]


def clip_tokenizer() -> Any:
    """Return a CLIP tokenizer of single characters."""
    from transformers import CLIPTokenizer

    letters = string.ascii_letters + string.digits + string.punctuation
    # The end token comes last: encoders with CLIP's old configuration look for the highest id.
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def _t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces = [*special, *((letter, -3.0) for letter in string.printable[:94])]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def _chat_tokenizer() -> Any:
    """Return a tokenizer of single characters with a chat template, for language models."""
    from transformers import Qwen2Tokenizer

    marks = ["<|im_start|>", "<|im_end|>"]
    tokens = [*string.printable[:94], "Ġ", "Ċ", "<|endoftext|>", *marks]  # Ġ is a space, Ċ a new line
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=marks)
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{{ message['content'] if message['content'] is string else message['content'][0]['text'] }}"
        "<|im_end|>\n{% endfor %}"
    )
    return tokenizer


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

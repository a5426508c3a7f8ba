"""Tiny checkpoints of the rewards that read the prompt, in their official layouts, with random weights."""

import json
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    CLIPVisionModel,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

from tiny_rewards import _image_processor, _save, _vision, _word_tokenizer

WIDTH, PIXELS, PATCH, LAYERS = 128, 32, 16, 2
WORDS = (
    "<pad> <unk> </s> <s> A chat between a curious user and an artificial intelligence assistant . The "
    "gives helpful , detailed polite answers to the ' s questions USER : ASSISTANT figure show \" ? Does "
    "this Please answer yes or no Yes No red green blue circle square triangle two quality of image is How "
    "would you rate excellent good fair poor bad Rate <|image_pad|> <|video_pad|> <|vision_start|> "
    "<|vision_end|> <|im_end|> <image> <img> </img> <IMG_CONTEXT> <video> <fake_token_around_image> "
    "<global-img> <end_of_utterance>"
)
VOCABULARY = {word: i for i, word in enumerate(dict.fromkeys(WORDS.split()))}


def spread(generator: torch.Generator, *shape: int, std: float = 0.1) -> torch.Tensor:
    return torch.randn(*shape, generator=generator) * std


def layer(weights: dict, generator: torch.Generator, name: str, outputs: int, inputs: int) -> None:
    weights[f"{name}.weight"] = spread(generator, outputs, inputs)
    weights[f"{name}.bias"] = spread(generator, outputs)


def norm(weights: dict, generator: torch.Generator, name: str) -> None:
    weights[f"{name}.weight"] = 1 + spread(generator, WIDTH)
    weights[f"{name}.bias"] = spread(generator, WIDTH)


def tokenizer(folder: Path, special: tuple[str, ...] = (), ends: bool = False):
    """A tokenizer of whole words. With `ends`, every text gets an end token, like T5."""
    words = _word_tokenizer(dict(VOCABULARY), list(special))
    if ends:
        from tokenizers.processors import TemplateProcessing

        end = ("</s>", VOCABULARY["</s>"])
        words._tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[end])
    words.save_pretrained(folder)
    return words


def blip_weights(positions: list[int]) -> dict[str, torch.Tensor]:
    """A BLIP judge in the names of the official code, with linear layers at `positions` of its head."""
    g = torch.Generator().manual_seed(0)
    w: dict[str, torch.Tensor] = {}
    vision, text = "blip.visual_encoder", "blip.text_encoder"
    w[f"{vision}.cls_token"] = spread(g, 1, 1, WIDTH, std=1)
    w[f"{vision}.pos_embed"] = spread(g, 1, 1 + (PIXELS // PATCH) ** 2, WIDTH, std=1)
    w[f"{vision}.patch_embed.proj.weight"] = spread(g, WIDTH, 3, PATCH, PATCH)
    w[f"{vision}.patch_embed.proj.bias"] = spread(g, WIDTH)
    for n in range(LAYERS):
        norm(w, g, f"{vision}.blocks.{n}.norm1")
        norm(w, g, f"{vision}.blocks.{n}.norm2")
        layer(w, g, f"{vision}.blocks.{n}.attn.qkv", 3 * WIDTH, WIDTH)
        layer(w, g, f"{vision}.blocks.{n}.attn.proj", WIDTH, WIDTH)
        layer(w, g, f"{vision}.blocks.{n}.mlp.fc1", 2 * WIDTH, WIDTH)
        layer(w, g, f"{vision}.blocks.{n}.mlp.fc2", WIDTH, 2 * WIDTH)
    norm(w, g, f"{vision}.norm")
    w[f"{text}.embeddings.word_embeddings.weight"] = spread(g, len(VOCABULARY), WIDTH, std=1)
    w[f"{text}.embeddings.position_embeddings.weight"] = spread(g, 140, WIDTH)
    w[f"{text}.embeddings.position_ids"] = torch.arange(140)[None]
    norm(w, g, f"{text}.embeddings.LayerNorm")
    for n in range(LAYERS):
        at = f"{text}.encoder.layer.{n}"
        for kind in ("attention", "crossattention"):
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                layer(w, g, f"{at}.{kind}.{part}", WIDTH, WIDTH)
            norm(w, g, f"{at}.{kind}.output.LayerNorm")
        layer(w, g, f"{at}.intermediate.dense", 2 * WIDTH, WIDTH)
        layer(w, g, f"{at}.output.dense", WIDTH, 2 * WIDTH)
        norm(w, g, f"{at}.output.LayerNorm")
    layer(w, g, "blip.vision_proj", 8, WIDTH)
    layer(w, g, "blip.text_proj", 8, WIDTH)
    sizes = [WIDTH, 32, 16, 8, 4, 1]
    for position, (inputs, outputs) in zip(positions, pairwise(sizes), strict=True):
        w[f"mlp.layers.{position}.weight"] = spread(g, outputs, inputs, std=0.5)
        w[f"mlp.layers.{position}.bias"] = spread(g, outputs)
    return w


def blip_judge(folder: Path, positions: list[int]) -> Path:
    """Weights and tokenizer of ImageReward or CycleReward."""
    tokenizer(folder)
    save_file(blip_weights(positions), folder / "judge.safetensors")
    return folder


def clip_t5(folder: Path) -> Path:
    """CLIP-FlanT5: T5 names, `mm_projector`, and a vision tower that the configuration names."""
    tokenizer(folder, ends=True)
    tower = folder / "tower"
    _image_processor().save_pretrained(tower)
    _save(CLIPVisionModel, _vision(), tower, 0)
    config = T5Config(
        vocab_size=len(VOCABULARY), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
    )  # fmt: skip
    _save(T5ForConditionalGeneration, config, folder, 0)
    g = torch.Generator().manual_seed(1)
    weights = T5ForConditionalGeneration.from_pretrained(folder).state_dict()
    weights["lm_head.weight"] = spread(g, len(VOCABULARY), 16, std=0.5)
    layer(weights, g, "mm_projector.0", 16, 16)
    layer(weights, g, "mm_projector.2", 16, 16)
    weights["mm_projector.0.weight"] *= 10
    weights["embed_tokens.weight"] = weights["shared.weight"]
    save_file(
        {name: tensor.clone() for name, tensor in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    values = json.loads((folder / "config.json").read_text())
    values |= {"model_type": "clip_t5", "architectures": ["CLIPT5ForConditionalGeneration"]}
    values |= {"mm_vision_tower": str(tower), "mm_hidden_size": 16, "mm_projector_type": "mlp2x_gelu"}
    values |= {"mm_vision_select_layer": -2, "tie_word_embeddings": False}
    values.pop("scale_decoder_outputs", None)
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def chat(image: str) -> str:
    """A chat template that writes `image` for an image."""
    return (
        f"{{% for m in messages %}}{{% for c in m.content %}}{{% if c.type == 'image' %}}{image}{{% else %}}"
        "{{ c.text }}{% endif %}{% endfor %}{% endfor %}<|im_end|> "
        "{% if add_generation_prompt %} ASSISTANT\n{% endif %}"
    )


def text_model(vocabulary: int = len(VOCABULARY), **more: object) -> dict:
    """The configuration of a language model."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "bos_token_id": 3,
        "eos_token_id": 2,
        **more,
    }


QWEN = "<|vision_start|><|image_pad|><|vision_end|>"
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}


def qwen_tokens() -> dict[str, int]:
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start"}
    names["vision_end"] = "vision_end"
    return {f"{name}_token_id": VOCABULARY[f"<|{word}|>"] for name, word in names.items()}


def save_tokenizer(folder: Path, special: tuple[str, ...], image: str, **roles: str) -> None:
    """Save the tokenizer of a vision-language model with its chat template."""
    words = tokenizer(folder, special)
    words.chat_template = chat(image)
    words.save_pretrained(folder)
    values = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(values | {"extra_special_tokens": roles}))


def qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL, with three-dimensional positions and patches added to deeper layers."""
    save_tokenizer(folder, tuple(w for w in VOCABULARY if w.startswith("<|")), QWEN)
    Qwen2VLImageProcessorPil(min_pixels=32 * 32, max_pixels=64 * 64, patch_size=16).save_pretrained(folder)
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 16}
    vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    text = text_model(head_dim=16, rope_parameters=ROPE)
    config = Qwen3VLConfig(vision_config=vision, text_config=text, **qwen_tokens())
    return _save(Qwen3VLForConditionalGeneration, config, folder, 0)


def internvl(folder: Path) -> Path:
    """InternVL, which splits an image into tiles."""
    roles = {"start_image_token": "<img>", "end_image_token": "</img>"}
    roles |= {"context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    save_tokenizer(folder, tuple(roles.values()), "<IMG_CONTEXT>", **roles)
    GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, max_patches=2).save_pretrained(folder)
    values = {"processor_class": "InternVLProcessor", "image_seq_length": 1}
    (folder / "processor_config.json").write_text(json.dumps(values))
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = InternVLConfig(
        vision_config=vision | {"image_size": 16, "patch_size": 8},
        text_config=text_model(model_type="qwen2"),
        image_token_id=VOCABULARY["<IMG_CONTEXT>"],
        image_seq_length=1,
    )
    return _save(InternVLForConditionalGeneration, config, folder, 0)


def smolvlm(folder: Path) -> Path:
    """SmolVLM (Idefics3), which reads an image in tiles and as a whole."""
    special = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    save_tokenizer(folder, special, "<image>")
    Idefics3ImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}, do_image_splitting=True
    ).save_pretrained(folder)
    values = {"processor_class": "Idefics3Processor", "image_seq_len": 1}
    (folder / "processor_config.json").write_text(json.dumps(values))
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = Idefics3Config(
        vision_config=vision | {"image_size": 16, "patch_size": 8},
        text_config=text_model(model_type="llama", max_position_embeddings=4096),
        image_token_id=VOCABULARY["<image>"],
        scale_factor=2,
        pad_token_id=0,
    )
    return _save(Idefics3ForConditionalGeneration, config, folder, 0)


def hpsv3(folder: Path) -> Path:
    """Qwen2-VL in the names of older transformers, with `rm_head` and one token more than its tokenizer."""
    save_tokenizer(folder, tuple(w for w in VOCABULARY if w.startswith("<|")), QWEN)
    Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56).save_pretrained(folder)
    config = Qwen2VLConfig(
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2},
        text_config=text_model(len(VOCABULARY) + 1, rope_parameters=ROPE),
        **qwen_tokens(),
    )
    _save(Qwen2VLForConditionalGeneration, config, folder / "whole", 0)
    config.save_pretrained(folder)
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder / "whole")
    old = {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): tensor.clone()
        for name, tensor in model.state_dict().items()
    }
    g = torch.Generator().manual_seed(2)
    for position, (outputs, inputs) in {0: (8, 16), 3: (4, 8), 5: (2, 4)}.items():
        layer(old, g, f"rm_head.{position}", outputs, inputs)
        old[f"rm_head.{position}.weight"] *= 10
    save_file(old, folder / "HPSv3.safetensors")
    return folder

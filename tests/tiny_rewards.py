"""Tiny reward checkpoints with random weights, one per architecture, with every part real."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)
from transformers.models.clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil

from tiny import clip_tokenizer, text_config

PIXELS = 16
VQA_WORDS = (
    '<pad> <s> </s> <unk> <image> USER ASSISTANT : Does this figure show " ? Please answer yes or no . '
    "a red green blue circle square triangle two and"
)


def clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP model whose logits vary by several units, like those of PickScore."""
    tokenizer = clip_tokenizer()
    config = CLIPConfig(
        text_config=text_config(tokenizer).to_dict(),
        vision_config=_vision().to_dict(),
        projection_dim=16,
        logit_scale_init_value=2.0,
    )
    CLIPProcessor(image_processor=_image_processor(), tokenizer=tokenizer).save_pretrained(folder)
    return _save(CLIPModel, config, folder, seed)


def rater(folder: Path, seed: int = 0, labels: int = 1) -> Path:
    """A CLIP image classifier with one output."""
    _image_processor().save_pretrained(folder)
    config = CLIPConfig(vision_config=_vision().to_dict(), num_labels=labels)
    return _save(CLIPForImageClassification, config, folder, seed)


def vqa(folder: Path, seed: int = 0, chat_template: str | None = None) -> Path:
    """A LLaVA model with a vocabulary of whole words."""
    vocabulary = {word: i for i, word in enumerate(VQA_WORDS.split())}
    LlavaProcessor(
        image_processor=_image_processor(),
        tokenizer=_word_tokenizer(vocabulary, ["<image>"]),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    ).save_pretrained(folder)
    config = LlavaConfig(
        vision_config=_vision(),
        text_config=LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=128,
            pad_token_id=vocabulary["<pad>"],
            bos_token_id=vocabulary["<s>"],
            eos_token_id=vocabulary["</s>"],
            initializer_range=0.5,
        ),
        image_token_id=vocabulary["<image>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    return _save(LlavaForConditionalGeneration, config, folder, seed)


def decoder_vqa(folder: Path, seed: int = 0) -> Path:
    """A vision encoder with a text decoder and a vocabulary of whole words."""
    vocabulary = {word: i for i, word in enumerate(VQA_WORDS.split())}
    tokenizer = _word_tokenizer(vocabulary, [])
    tokenizer.model_max_length = 32
    tokenizer.save_pretrained(folder)
    _image_processor().save_pretrained(folder)
    decoder = GPT2Config(
        vocab_size=len(vocabulary),
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        add_cross_attention=True,
        is_decoder=True,
        bos_token_id=vocabulary["<s>"],
        eos_token_id=vocabulary["</s>"],
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(_vision(), decoder)
    return _save(VisionEncoderDecoderModel, config, folder, seed)


def qwen(folder: Path, seed: int = 0) -> Path:
    """A Qwen2.5-VL model, whose processor has a video part and whose positions are three-dimensional."""
    words = [*VQA_WORDS.split(), "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = _word_tokenizer(vocabulary, words[-4:])
    tokenizer.chat_template = (
        "{% for m in messages %}{% for c in m.content %}"
        "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% else %}{{ c.text }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56).save_pretrained(folder)
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 16,
            "fullatt_block_indexes": [0],
        },
        text_config={
            "vocab_size": len(vocabulary),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0},
            "pad_token_id": vocabulary["<pad>"],
            "bos_token_id": vocabulary["<s>"],
            "eos_token_id": vocabulary["</s>"],
        },
        image_token_id=vocabulary["<|image_pad|>"],
        video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
    )
    return _save(Qwen2_5_VLForConditionalGeneration, config, folder, seed)


def _word_tokenizer(vocabulary: dict[str, int], special: list[str]) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=special,
    )


def _save(architecture: type, config: object, folder: Path, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture(config).eval()
        # With the default standard deviation, such small models answer everything alike.
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "norm" not in name:
                torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    return folder


def _vision() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=PIXELS,
        patch_size=8,
    )


def _image_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS}
    )

"""Reward models of real size without weights: configurations on disk, random weights drawn on the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import (
    CLIPConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.clip import CLIPImageProcessorPil

from capo.cost.bench.subject import prompts
from capo.cost.checkpoints import clip_tokenizer
from capo.rewards.models.vision_language import PLAIN_FORMAT
from capo.rewards.models.vqascore import QUESTION

IMAGE = "<image>"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", IMAGE)


def clip_h(folder: Path, tiny: bool = False) -> Path:
    """CLIP ViT-H/14, the network of PickScore, HPSv2 and MPS: 986 million parameters."""
    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "hidden_act": "gelu"}
    vision = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "hidden_act": "gelu"}
    for tower in (text, vision):
        if tiny:
            tower |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        tower["num_attention_heads"] = 4 if tiny else 16
    vision["patch_size"] = 14
    tokenizer = clip_tokenizer()
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(text_config=text | ends, vision_config=vision, projection_dim=1024)
    config.save_pretrained(folder)
    return folder


def llava_7b(folder: Path, tiny: bool = False) -> Path:
    """LLaVA 1.5 7B: CLIP ViT-L/14 at 336 pixels and a Llama of 7 billion parameters, in bfloat16."""
    tokenizer = _word_tokenizer([QUESTION, PLAIN_FORMAT, "Yes", *(prompt.text for prompt in prompts(64))])
    processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    LlavaProcessor(
        image_processor=processor,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
    ).save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text = {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096, **ends}
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 336,
        "projection_dim": 768,
    }
    config = LlavaConfig(
        text_config=text | (sizes if tiny else {}),
        vision_config=vision | (sizes if tiny else {}),
        image_token_id=SPECIAL.index(IMAGE),
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    return folder


@contextmanager
def weights_drawn_on(device: torch.device) -> Iterator[None]:
    """Within it, transformers draws the weights of every model on `device` instead of reading a file."""

    def draw(kind: Any, name: str, config: Any = None, dtype: Any = None, **_: Any) -> tuple[Any, Any]:
        config = config or kind.config_class.from_pretrained(name)
        chosen = config.dtype if dtype == "auto" else dtype
        before = torch.get_default_dtype()
        torch.set_default_dtype(chosen or torch.float32)
        try:
            with device:
                model = kind(config)
        finally:
            torch.set_default_dtype(before)
        return model, {"missing_keys": [], "unexpected_keys": []}

    with patch.object(PreTrainedModel, "from_pretrained", classmethod(draw)):  # type: ignore[arg-type]
        yield


def _word_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of the words in `texts`, so that prompts have about as many tokens as with a real one."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    splitter = pre_tokenizers.Whitespace()
    words = [word for text in texts for word, _ in splitter.pre_tokenize_str(text)]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys((*SPECIAL, *words)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": IMAGE},
    )

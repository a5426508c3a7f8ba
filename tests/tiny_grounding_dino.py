"""A tiny Grounding DINO in the layout of transformers, with random weights and BERT's special tokens."""

from pathlib import Path

from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
    GroundingDinoImageProcessorPil,
)

from tiny_rewards import _save, _word_tokenizer

CLS, SEP, PERIOD, SIZE = 101, 102, 1012, 1030
"""Ids that the model's code expects, as in BERT's vocabulary."""
NOUNS = (
    "person",
    "rabbit",
    "bag",
    "dog",
    "cup",
    "cake",
    "tennis",
    "ball",
    "cat",
    "boat",
    "bowl",
    "bench",
    "dogs",
)


def grounding_dino(folder: Path) -> Path:
    words = {f"[unused{n}]": n for n in range(SIZE)}
    named = {"[PAD]": 0, "[UNK]": 100, "[CLS]": CLS, "[SEP]": SEP, ".": PERIOD}
    named |= {noun: 200 + n for n, noun in enumerate(NOUNS)}
    taken = set(named.values())
    words = {word: n for word, n in words.items() if n not in taken} | named
    tokenizer = _word_tokenizer(words, [])
    ends = [("[CLS]", CLS), ("[SEP]", SEP)]
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.save_pretrained(folder)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1],
            window_size=4, out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(
            vocab_size=SIZE, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=64,
        ),
        num_queries=12, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_text_len=64,
    )  # fmt: skip
    return _save(GroundingDinoForObjectDetection, config, folder, 0)

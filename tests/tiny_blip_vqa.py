"""A tiny BLIP for question answering in the names of the original code, with random weights."""

from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing

from tiny_language_rewards import WIDTH, blip_weights, layer, norm, spread
from tiny_rewards import _word_tokenizer

TOKENS = "[PAD] [UNK] [CLS] [SEP] yes no ? a red green bench and blue bowl two dogs dog cat"
WORDS = {word: i for i, word in enumerate(TOKENS.split())}
SIZE = len(WORDS) + 2
"""With the tokens that start the decoder and the encoder."""


def vqa_weights() -> dict[str, torch.Tensor]:
    """Weights of vision, encoder and decoder; the decoder's input and output embeddings are one."""
    g = torch.Generator().manual_seed(7)
    whole = {
        k.removeprefix("blip."): w for k, w in blip_weights([0, 2, 4, 6, 8]).items() if k.startswith("blip.")
    }
    encoder = {k.removeprefix("text_encoder."): w for k, w in whole.items() if k.startswith("text_encoder.")}
    encoder["embeddings.word_embeddings.weight"] = spread(g, SIZE, WIDTH, std=1)
    weights = {k: w for k, w in whole.items() if k.startswith("visual_encoder.")}
    for part in ("text_encoder", "text_decoder.bert"):
        weights |= {
            f"{part}.{k}": w if w.dtype == torch.long or part == "text_encoder" else w + spread(g, *w.shape)
            for k, w in encoder.items()
        }
    head = "text_decoder.cls.predictions"
    layer(weights, g, f"{head}.transform.dense", WIDTH, WIDTH)
    norm(weights, g, f"{head}.transform.LayerNorm")
    weights[f"{head}.bias"] = spread(g, SIZE)
    weights[f"{head}.decoder.bias"] = weights[f"{head}.bias"]
    words = weights["text_decoder.bert.embeddings.word_embeddings.weight"]
    yes, no = WORDS["yes"], WORDS["no"]
    words[no] = words[yes] + spread(g, WIDTH)  # close, so that no answer is certain
    weights[f"{head}.bias"][no] = weights[f"{head}.bias"][yes]
    weights[f"{head}.decoder.weight"] = words
    return weights


def blip_vqa(folder: Path) -> Path:
    """The original layout: a `.pth` file with the weights under `model`, and a tokenizer beside it."""
    words = _word_tokenizer(dict(WORDS), [])
    cls, sep = (("[CLS]", WORDS["[CLS]"]), ("[SEP]", WORDS["[SEP]"]))
    words._tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[cls, sep])
    words.unk_token = "[UNK]"
    words.save_pretrained(folder)
    torch.save({"model": vqa_weights()}, folder / "model_base_vqa_capfilt_large.pth")
    return folder

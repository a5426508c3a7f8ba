"""Tokenizers for the words of the grammar, in the formats of real tokenizers."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from capo.shapes.grammar import grammar

PROMPT_LENGTH = 24
"""Maximum number of prompt tokens, including start and end."""
QUESTION = 'Does this figure show "{prompt}"? Please answer yes or no.'
QUESTION_LENGTH = 48
YES, NO = " Yes", " No"


def clip_tokenizer() -> CLIPTokenizer:
    """Train a byte-level BPE with OpenAI's conventions: `</w>` ends a word, and the end token pads."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(_words(), trainer)
    vocabulary, merges = _parts(bpe)
    known = dict.fromkeys([*sorted(alphabet), *(letter + "</w>" for letter in sorted(alphabet))])
    known |= dict.fromkeys(vocabulary)
    ids = {token: index for index, token in enumerate([*known, start, end])}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=PROMPT_LENGTH)


def question_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in the style of GPT-2 for the questions and answers."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (QUESTION.format(prompt=text) for text in _words())
    bpe.train_from_iterator([*texts, f"no.{YES}", f"no.{NO}"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="right",
        model_max_length=QUESTION_LENGTH,
    )


def _words() -> Iterable[str]:
    return [spec.text for specs in grammar("train").values() for spec in specs]


def _parts(bpe: Tokenizer) -> tuple[list[str], list[tuple[str, str]]]:
    """The vocabulary in the order of its ids, and the merges."""
    import json

    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    return sorted(model["vocab"], key=model["vocab"].__getitem__), merges

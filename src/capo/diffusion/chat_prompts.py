"""Prompts for text encoders that are language models, which read them as a message of a chat."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


class ChatTokenizer:
    """A tokenizer with its chat template, called like a tokenizer with the texts of prompts."""

    def __init__(self, tokenizer: Any, **settings: Any) -> None:
        """Take settings of the template."""
        self._tokenizer, self._settings = tokenizer, settings

    def __call__(self, prompts: list[str], **arguments: Any) -> Any:
        """Return the tokens of the whole chats."""
        return self._tokenizer([self._chat(prompt) for prompt in prompts], **arguments)

    def prefixed(self, prompts: list[str]) -> Any:
        """Return the tokens of the chats up to the end of the prompts."""
        chats = [self._chat(prompt) for prompt in prompts]
        return self._tokenizer([up_to(chat, prompt) for chat, prompt in zip(chats, prompts, strict=True)])

    def _chat(self, prompt: str) -> str:
        text: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            **self._settings,
        )
        return text


def up_to(chat: str, prompt: str) -> str:
    """Return the text of a chat up to the end of its last `prompt`."""
    said = prompt.strip()  # as some templates do
    return chat[: chat.rindex(said) + len(said)]


def encode_padded(
    pipeline: Any, tokenize: Any, prompts: list[str], tokens: int
) -> tuple[Sequence[Tensor], Tensor]:
    """Return the states of all layers of the pipeline's text encoder, and the mask of their tokens.

    Pipelines pad to the longest prompt of a batch, or drop the padding. Here, all prompts have the same
    number of `tokens`, so that their states do not depend on their neighbors and can be stored together.
    """
    padding = {"padding": "max_length", "padding_side": "right", "max_length": tokens}
    inputs = tokenize(prompts, **padding, truncation=True, return_tensors="pt")
    encoder = pipeline.text_encoder
    ids, mask = inputs.input_ids.to(encoder.device), inputs.attention_mask.to(encoder.device)
    output = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    return output.hidden_states, mask

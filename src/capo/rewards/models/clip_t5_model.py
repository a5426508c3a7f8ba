"""CLIP-FlanT5: a T5 that reads CLIP patches between its words, in the layout of its authors."""

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

PROJECTOR = "mlp2x_gelu"


class ClipT5(T5ForConditionalGeneration):  # type: ignore[misc]
    """T5 with `mm_projector`. The vision tower is a separate CLIP."""

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [
        *T5ForConditionalGeneration._keys_to_ignore_on_load_unexpected,
        r"^embed_tokens\.",  # another name of `shared`
        r"^vision_tower\.",  # frozen in training, so the one that the configuration names is equal
    ]

    def __init__(self, config: T5Config) -> None:
        """Build from `config`, which has the `mm_…` fields of LLaVA. Other projectors raise `ValueError`."""
        super().__init__(config)
        if config.mm_projector_type != PROJECTOR:
            raise ValueError(f"mm_projector_type is {config.mm_projector_type!r}; it must be {PROJECTOR}")
        self.mm_projector = nn.Sequential(
            nn.Linear(config.mm_hidden_size, config.d_model),
            nn.GELU(),
            nn.Linear(config.d_model, config.d_model),
        )
        self.post_init()

    def likelihoods(self, words: Tensor, mask: Tensor, answer: Tensor) -> Tensor:
        """Return log-probabilities, float32 [n, m], of `answer` [m] after embedded words [n, l, d]."""
        labels = answer.repeat(len(words), 1)
        logits: Any = self(inputs_embeds=words, attention_mask=mask, labels=labels).logits
        return logits.float().log_softmax(-1).gather(-1, labels[..., None])[..., 0]

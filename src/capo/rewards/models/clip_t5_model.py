"""CLIP-FlanT5: a T5 that reads CLIP's patches between its words, in the layout of its authors."""

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

PROJECTOR = "mlp2x_gelu"


class ClipT5(T5ForConditionalGeneration):  # type: ignore[misc]
    """T5 and `mm_projector`; the vision tower is CLIP's own and not part of it."""

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [
        *T5ForConditionalGeneration._keys_to_ignore_on_load_unexpected,
        r"^embed_tokens\.",  # another name of `shared`
        r"^vision_tower\.",  # frozen in training, so that of the configuration is the same
    ]

    def __init__(self, config: T5Config) -> None:
        """As `config` says, with the `mm_…` fields of LLaVA; raises `ValueError` for other projectors."""
        super().__init__(config)
        if config.mm_projector_type != PROJECTOR:
            raise ValueError(f"mm_projector_type is {config.mm_projector_type!r}; only {PROJECTOR} is known")
        self.mm_projector = nn.Sequential(
            nn.Linear(config.mm_hidden_size, config.d_model),
            nn.GELU(),
            nn.Linear(config.d_model, config.d_model),
        )
        self.post_init()

    def likelihoods(self, words: Tensor, mask: Tensor, answer: Tensor) -> Tensor:
        """Log-probabilities of the tokens of `answer` [m] after embedded words [n, l, d], float32 [n, m]."""
        labels = answer.repeat(len(words), 1)
        logits: Any = self(inputs_embeds=words, attention_mask=mask, labels=labels).logits
        return logits.float().log_softmax(-1).gather(-1, labels[..., None])[..., 0]

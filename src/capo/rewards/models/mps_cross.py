"""The cross model of MPS: the image looks at those words of the prompt that matter.

Zhang et al., "Learning Multi-dimensional Human Preference for Text-to-Image Generation" (2024),
Sec. 4. Layers of two residual blocks: attention from image to text, then among the image's
patches, each with a gated feed-forward beside it. All heads share one key and value head.
Parameters have the released names.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

if TYPE_CHECKING:
    from collections.abc import Mapping


class CrossModel(nn.Module):
    """Layers of (`TextAttention`, `PatchAttention`), of the sizes that `weights` have."""

    def __init__(self, weights: "Mapping[str, Tensor]") -> None:
        """Raises `KeyError` when `weights` have no first layer."""
        super().__init__()
        inner, width = weights["layers.0.0.fn.to_q.weight"].shape
        head = weights["layers.0.0.fn.to_kv.weight"].shape[0] // 2
        feed_forward = weights["layers.0.0.fn.ff.0.weight"].shape[0] // 2
        depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
        sizes = (width, inner // head, head, feed_forward)
        self.layers = nn.ModuleList(
            nn.ModuleList([Residual(TextAttention(*sizes)), Residual(PatchAttention(*sizes))])
            for _ in range(depth)
        )

    def forward(self, patches: Tensor, words: Tensor, heard: Tensor) -> Tensor:
        """[n, P, d] from `patches` [n, P, d], one prompt's `words` [T, d] and whether each is `heard` [T]."""
        for layer in self.layers:
            text_attention, patch_attention = layer.children()
            patches = patch_attention(text_attention(patches, words, heard))
        return patches


class Residual(nn.Module):
    """x + fn(x)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Of the shape of `x`."""
        return x + self.fn(x, *context)


class TextAttention(nn.Module):
    """From patches to words, which are not normalised."""

    def __init__(self, width: int, heads: int, head: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * head, bias=False)
        self.to_kv = nn.Linear(width, 2 * head, bias=False)
        self.to_out = nn.Linear(heads * head, width, bias=False)
        self.ff = nn.Sequential(
            nn.Linear(width, 2 * feed_forward, bias=False), Gate(), nn.Linear(feed_forward, width, bias=False)
        )

    def forward(self, x: Tensor, words: Tensor, heard: Tensor) -> Tensor:
        """[n, P, d]."""
        x = self.norm(x)
        key, value = self.to_kv(words).expand(len(x), -1, -1).chunk(2, dim=-1)
        attended = _attend(self.to_q(x), key, value, self.heads, heard[None])
        return self.to_out(attended) + self.ff(x)


class PatchAttention(nn.Module):
    """Among patches, with rotary positions; one projection for attention and feed-forward."""

    def __init__(self, width: int, heads: int, head: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.parts = (heads * head, head, head, 2 * feed_forward)
        self.norm = nn.LayerNorm(width)
        self.fused_attn_ff_proj = nn.Linear(width, sum(self.parts), bias=False)
        self.attn_out = nn.Linear(heads * head, width, bias=False)
        self.ff_out = nn.Sequential(Gate(), nn.Linear(feed_forward, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """[n, P, d]."""
        query, key, value, hidden = self.fused_attn_ff_proj(self.norm(x)).split(self.parts, dim=-1)
        query, key = _turn(query.unflatten(-1, (self.heads, -1))).flatten(-2), _turn(key[:, :, None])[:, :, 0]
        return self.attn_out(_attend(query, key, value, self.heads)) + self.ff_out(hidden)


class Gate(nn.Module):
    """SwiGLU, the gate in the second half."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] from [..., 2 d]."""
        value, gate = x.chunk(2, dim=-1)
        return silu(gate) * value


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, heard: Tensor | None = None) -> Tensor:
    """[n, P, heads · h] from queries of that shape and one head [n, T, h] of keys and values."""
    split = query.unflatten(-1, (heads, -1)).transpose(1, 2)
    key, value = (each[:, None].expand(-1, heads, -1, -1) for each in (key, value))
    attended = scaled_dot_product_attention(split, key, value, attn_mask=heard)
    return attended.transpose(1, 2).flatten(-2)


def _turn(x: Tensor) -> Tensor:
    """Rotary positions, theta 10000, of `x` [n, P, heads, h], whose first half turns with its second."""
    half = x.shape[-1] // 2
    speed = 10_000.0 ** -(torch.arange(half, device=x.device) / half)
    angle = (torch.arange(x.shape[1], device=x.device)[:, None] * speed)[:, None]
    first, second = x[..., :half], x[..., half:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

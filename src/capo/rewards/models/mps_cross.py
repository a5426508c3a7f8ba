"""The cross model of MPS, in which the image attends to the relevant words of the prompt.

Zhang et al., "Learning Multi-dimensional Human Preference for Text-to-Image Generation" (2024),
Sec. 4. A layer is two residual blocks: attention from image to text, then among the patches of the
image, each with a gated feed-forward in parallel. All heads share one key and value head. Parameters
have the released names.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

if TYPE_CHECKING:
    from collections.abc import Mapping


class CrossModel(nn.Module):
    """Layers of (`TextAttention`, `PatchAttention`), sized to fit `weights`."""

    def __init__(self, weights: "Mapping[str, Tensor]") -> None:
        """Raises `KeyError` if `weights` have no first layer."""
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

    def forward(self, patches: Tensor, words: Tensor, relevant: Tensor) -> Tensor:
        """Return [n, P, d] for `patches` [n, P, d], `words` [T, d] of a prompt and a mask `relevant` [T]."""
        for layer in self.layers:
            text_attention, patch_attention = layer.children()
            patches = patch_attention(text_attention(patches, words, relevant))
        return patches


class Residual(nn.Module):
    """x + fn(x)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return a tensor with the shape of `x`."""
        return x + self.fn(x, *context)


class TextAttention(nn.Module):
    """Attention from patches to words, which are not normalized."""

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

    def forward(self, x: Tensor, words: Tensor, relevant: Tensor) -> Tensor:
        """Return [n, P, d]."""
        x = self.norm(x)
        key, value = self.to_kv(words).expand(len(x), -1, -1).chunk(2, dim=-1)
        attended = _attend(self.to_q(x), key, value, self.heads, relevant[None])
        return self.to_out(attended) + self.ff(x)


class PatchAttention(nn.Module):
    """Attention among patches with rotary positions. Attention and feed-forward share one projection."""

    def __init__(self, width: int, heads: int, head: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.parts = (heads * head, head, head, 2 * feed_forward)
        self.norm = nn.LayerNorm(width)
        self.fused_attn_ff_proj = nn.Linear(width, sum(self.parts), bias=False)
        self.attn_out = nn.Linear(heads * head, width, bias=False)
        self.ff_out = nn.Sequential(Gate(), nn.Linear(feed_forward, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, P, d]."""
        query, key, value, hidden = self.fused_attn_ff_proj(self.norm(x)).split(self.parts, dim=-1)
        query, key = (
            _rotate(query.unflatten(-1, (self.heads, -1))).flatten(-2),
            _rotate(key[:, :, None])[:, :, 0],
        )
        return self.attn_out(_attend(query, key, value, self.heads)) + self.ff_out(hidden)


class Gate(nn.Module):
    """SwiGLU with the gate in the second half."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., d] for [..., 2 d]."""
        value, gate = x.chunk(2, dim=-1)
        return silu(gate) * value


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, relevant: Tensor | None = None) -> Tensor:
    """Return [n, P, heads · h] for queries of that shape and one head [n, T, h] of keys and values."""
    split = query.unflatten(-1, (heads, -1)).transpose(1, 2)
    key, value = (x[:, None].expand(-1, heads, -1, -1) for x in (key, value))
    attended = scaled_dot_product_attention(split, key, value, attn_mask=relevant)
    return attended.transpose(1, 2).flatten(-2)


def _rotate(x: Tensor) -> Tensor:
    """Apply rotary positions (theta 10000) to `x` [n, P, heads, h]; its halves form the pairs."""
    half = x.shape[-1] // 2
    speed = 10_000.0 ** -(torch.arange(half, device=x.device) / half)
    angle = (torch.arange(x.shape[1], device=x.device)[:, None] * speed)[:, None]
    first, second = x[..., :half], x[..., half:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

"""BLIP from its equations, in float64, with one image and one unpadded text at a time."""

import math

import numpy as np
import torch
from torch.nn.functional import gelu, layer_norm

from tiny_language_rewards import LAYERS, PATCH, PIXELS, WIDTH

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
HEADS = WIDTH // 64


class BlipEquations:
    """ViT and BERT over weights in the names of the official code."""

    def __init__(self, weights):
        self.w = {name: tensor.double() for name, tensor in weights.items()}

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name, x, eps):
        return layer_norm(x, (WIDTH,), self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def attend(self, q, k, v):
        q, k, v = (x.view(len(x), HEADS, 64).transpose(0, 1) for x in (q, k, v))
        shares = (q @ k.transpose(1, 2) / math.sqrt(64)).softmax(-1)
        return (shares @ v).transpose(0, 1).reshape(-1, WIDTH)

    def encode_image(self, vision, image):
        """Pre-norm ViT. Returns class token and patches, [1 + patches, width]."""
        pixels = torch.from_numpy((np.asarray(image, dtype=np.float64) / 255 - MEAN) / STD).permute(2, 0, 1)
        patches = [
            pixels[:, y : y + PATCH, x : x + PATCH].flatten()
            for y in range(0, PIXELS, PATCH)
            for x in range(0, PIXELS, PATCH)
        ]
        kernel = self.w[f"{vision}.patch_embed.proj.weight"].flatten(1)
        x = torch.stack(patches) @ kernel.T + self.w[f"{vision}.patch_embed.proj.bias"]
        x = torch.cat([self.w[f"{vision}.cls_token"][0], x]) + self.w[f"{vision}.pos_embed"][0]
        for n in range(LAYERS):
            at = f"{vision}.blocks.{n}"
            q, k, v = self.linear(f"{at}.attn.qkv", self.norm(f"{at}.norm1", x, 1e-6)).chunk(3, dim=1)
            x = x + self.linear(f"{at}.attn.proj", self.attend(q, k, v))
            inner = gelu(self.linear(f"{at}.mlp.fc1", self.norm(f"{at}.norm2", x, 1e-6)))
            x = x + self.linear(f"{at}.mlp.fc2", inner)
        return self.norm(f"{vision}.norm", x, 1e-6)

    def encode_text(self, text, ids, seen):
        """Post-norm BERT without a mask, and with cross-attention to `seen`. Returns [tokens, width]."""
        x = self.w[f"{text}.embeddings.word_embeddings.weight"][ids]
        x = x + self.w[f"{text}.embeddings.position_embeddings.weight"][: len(ids)]
        x = self.norm(f"{text}.embeddings.LayerNorm", x, 1e-12)
        for n in range(LAYERS):
            at = f"{text}.encoder.layer.{n}"
            for kind, other in (("attention", None), ("crossattention", seen)):
                q, k, v = (
                    self.linear(f"{at}.{kind}.self.{part}", x if part == "query" or other is None else other)
                    for part in ("query", "key", "value")
                )
                out = self.linear(f"{at}.{kind}.output.dense", self.attend(q, k, v))
                x = self.norm(f"{at}.{kind}.output.LayerNorm", x + out, 1e-12)
            inner = gelu(self.linear(f"{at}.intermediate.dense", x))
            out = self.linear(f"{at}.output.dense", inner)
            x = self.norm(f"{at}.output.LayerNorm", x + out, 1e-12)
        return x

"""Mask2Former in mmdet's layout: tiny random weights, and the network written from mmdet's documentation.

Nothing here knows transformers: tensors are read under mmdet's names, patches are merged by `unfold`, and
query, key and value stay joined. It is the independent side of the test of the key map.
"""

import math

import torch
from torch.nn import functional as F

HEADS, QUERIES, WIDTH, CLASSES, POINTS, LEVELS = 2, 8, 32, 80, 4, 3
DEPTHS, SWIN_HEADS, EMBED, WINDOW = (2, 1, 1, 2), (1, 2, 2, 4), 8, 3


def weights(seed: int = 0, scale: float = 0.3) -> dict[str, torch.Tensor]:
    """A complete state dict with mmdet's names and shapes."""
    generator = torch.Generator().manual_seed(seed)
    table: dict[str, torch.Tensor] = {}

    def put(name: str, *shape: int, norm: bool = False) -> None:
        table[name] = torch.randn(*shape, generator=generator) * scale + norm

    def linear(name: str, outputs: int, inputs: int, *kernel: int, bias: bool = True) -> None:
        # Of unit gain, so that no layer saturates and every weight matters.
        table[f"{name}.weight"] = torch.randn(outputs, inputs, *kernel, generator=generator) / math.sqrt(
            inputs * math.prod(kernel)
        )
        if bias:
            put(f"{name}.bias", outputs)

    def norm(name: str, width: int) -> None:
        put(f"{name}.weight", width, norm=True)
        put(f"{name}.bias", width)

    linear("backbone.patch_embed.projection", EMBED, 3, 4, 4)
    norm("backbone.patch_embed.norm", EMBED)
    for stage, (depth, heads) in enumerate(zip(DEPTHS, SWIN_HEADS, strict=True)):
        width = EMBED * 2**stage
        for block in range(depth):
            at = f"backbone.stages.{stage}.blocks.{block}"
            norm(f"{at}.norm1", width)
            put(f"{at}.attn.w_msa.relative_position_bias_table", (2 * WINDOW - 1) ** 2, heads)
            table[f"{at}.attn.w_msa.relative_position_index"] = position_index()
            linear(f"{at}.attn.w_msa.qkv", 3 * width, width)
            linear(f"{at}.attn.w_msa.proj", width, width)
            norm(f"{at}.norm2", width)
            linear(f"{at}.ffn.layers.0.0", 4 * width, width)
            linear(f"{at}.ffn.layers.1", width, 4 * width)
        if stage < 3:
            norm(f"backbone.stages.{stage}.downsample.norm", 4 * width)
            linear(f"backbone.stages.{stage}.downsample.reduction", 2 * width, 4 * width, bias=False)
        norm(f"backbone.norm{stage}", width)
    pixels = "panoptic_head.pixel_decoder"
    for level, stage in enumerate((3, 2, 1)):
        linear(f"{pixels}.input_convs.{level}.conv", WIDTH, EMBED * 2**stage, 1, 1)
        norm(f"{pixels}.input_convs.{level}.gn", WIDTH)
    for layer in range(2):
        at = f"{pixels}.encoder.layers.{layer}"
        linear(f"{at}.attentions.0.sampling_offsets", HEADS * LEVELS * POINTS * 2, WIDTH)
        linear(f"{at}.attentions.0.attention_weights", HEADS * LEVELS * POINTS, WIDTH)
        linear(f"{at}.attentions.0.value_proj", WIDTH, WIDTH)
        linear(f"{at}.attentions.0.output_proj", WIDTH, WIDTH)
        norm(f"{at}.norms.0", WIDTH)
        linear(f"{at}.ffns.0.layers.0.0", 48, WIDTH)
        linear(f"{at}.ffns.0.layers.1", WIDTH, 48)
        norm(f"{at}.norms.1", WIDTH)
    put(f"{pixels}.level_encoding.weight", LEVELS, WIDTH)
    linear(f"{pixels}.lateral_convs.0.conv", WIDTH, EMBED, 1, 1, bias=False)
    norm(f"{pixels}.lateral_convs.0.gn", WIDTH)
    linear(f"{pixels}.output_convs.0.conv", WIDTH, WIDTH, 3, 3, bias=False)
    norm(f"{pixels}.output_convs.0.gn", WIDTH)
    linear(f"{pixels}.mask_feature", WIDTH, WIDTH, 1, 1)
    for layer in range(3):
        at = f"panoptic_head.transformer_decoder.layers.{layer}"
        for index in range(2):
            put(f"{at}.attentions.{index}.attn.in_proj_weight", 3 * WIDTH, WIDTH)
            put(f"{at}.attentions.{index}.attn.in_proj_bias", 3 * WIDTH)
            linear(f"{at}.attentions.{index}.attn.out_proj", WIDTH, WIDTH)
        linear(f"{at}.ffns.0.layers.0.0", 40, WIDTH)
        linear(f"{at}.ffns.0.layers.1", WIDTH, 40)
        for index in range(3):
            norm(f"{at}.norms.{index}", WIDTH)
    norm("panoptic_head.transformer_decoder.post_norm", WIDTH)
    for name, rows in (("query_embed", QUERIES), ("query_feat", QUERIES), ("level_embed", LEVELS)):
        put(f"panoptic_head.{name}.weight", rows, WIDTH)
    linear("panoptic_head.cls_embed", CLASSES + 1, WIDTH)
    for index in (0, 2, 4):
        linear(f"panoptic_head.mask_embed.{index}", WIDTH, WIDTH)
    return table


def position_index() -> torch.Tensor:
    """mmdet's buffer: the row of the bias table for each pair of places in a window."""
    place = (torch.arange(WINDOW)[:, None] * (2 * WINDOW - 1) + torch.arange(WINDOW)[None]).flatten()[None]
    return (place + place.T).flip(1).contiguous()


def forward(table: dict[str, torch.Tensor], pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class logits [1, queries, classes + 1] and mask logits [1, queries, H / 4, W / 4] of the last layer."""
    return Network(table).head(Network(table).backbone(pixels))


class Network:
    def __init__(self, table: dict[str, torch.Tensor]) -> None:
        self.table = table

    def get(self, name: str) -> torch.Tensor | None:
        return self.table.get(name)

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.table[f"{name}.weight"], self.get(f"{name}.bias"))

    def conv(self, name: str, x: torch.Tensor, **options: int) -> torch.Tensor:
        return F.conv2d(x, self.table[f"{name}.weight"], self.get(f"{name}.bias"), **options)

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.table[f"{name}.weight"], self.table[f"{name}.bias"])

    def conv_module(self, name: str, x: torch.Tensor, **options: int) -> torch.Tensor:
        gn = f"{name}.gn"
        x = self.conv(f"{name}.conv", x, **options)
        return F.group_norm(x, 32, self.table[f"{gn}.weight"], self.table[f"{gn}.bias"])

    def ffn(self, name: str, x: torch.Tensor, activation) -> torch.Tensor:
        return self.linear(f"{name}.layers.1", activation(self.linear(f"{name}.layers.0.0", x)))

    # The backbone

    def backbone(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        x = self.conv("backbone.patch_embed.projection", pixels, stride=4)
        height, width = x.shape[-2:]
        x = self.norm("backbone.patch_embed.norm", x.flatten(2).transpose(1, 2))
        outputs = []
        for stage, depth in enumerate(DEPTHS):
            for block in range(depth):
                x = self.block(f"backbone.stages.{stage}.blocks.{block}", x, height, width, block % 2 == 1)
            out = self.norm(f"backbone.norm{stage}", x)
            outputs.append(out.transpose(1, 2).unflatten(-1, (height, width)))
            if stage < 3:
                at = f"backbone.stages.{stage}.downsample"
                grid = x.transpose(1, 2).unflatten(-1, (height, width))
                grid = F.pad(grid, (0, width % 2, 0, height % 2))
                merged = F.unfold(grid, kernel_size=2, stride=2).transpose(1, 2)
                x = self.linear(f"{at}.reduction", self.norm(f"{at}.norm", merged))
                height, width = (height + 1) // 2, (width + 1) // 2
        return outputs

    def block(self, at: str, x: torch.Tensor, height: int, width: int, shifted: bool) -> torch.Tensor:
        grid = self.norm(f"{at}.norm1", x).unflatten(1, (height, width))
        x = x + self.windows(f"{at}.attn.w_msa", grid, shifted).flatten(1, 2)
        return x + self.ffn(f"{at}.ffn", self.norm(f"{at}.norm2", x), F.gelu)

    def windows(self, at: str, grid: torch.Tensor, shifted: bool) -> torch.Tensor:
        _, height, width, channels = grid.shape
        grid = F.pad(grid, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        tall, wide = grid.shape[1:3]
        shift = WINDOW // 2 if shifted else 0
        grid = grid.roll((-shift, -shift), (1, 2))
        # Places that were not neighbors before the shift do not attend to each other.
        zones = torch.zeros(tall, wide)
        cuts = (slice(0, -WINDOW), slice(-WINDOW, -shift), slice(-shift, None)) if shift else (slice(None),)
        for row, rows in enumerate(cuts):
            for column, columns in enumerate(cuts):
                zones[rows, columns] = 3 * row + column

        def split(values: torch.Tensor) -> torch.Tensor:  # [tall, wide, c] -> [windows, places, c]
            parts = values.reshape(tall // WINDOW, WINDOW, wide // WINDOW, WINDOW, -1).transpose(1, 2)
            return parts.reshape(-1, WINDOW * WINDOW, values.shape[-1])

        zone = split(zones[..., None])[..., 0]
        mask = torch.where(zone[:, :, None] == zone[:, None], 0.0, -100.0)
        bias = self.table[f"{at}.relative_position_bias_table"]
        heads = bias.shape[1]
        x = split(grid[0])
        qkv = self.linear(f"{at}.qkv", x).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * qkv.shape[-1] ** -0.5, qkv[1], qkv[2]
        scores = q @ k.transpose(-2, -1) + bias[position_index()].permute(2, 0, 1)[None] + mask[:, None]
        out = self.linear(f"{at}.proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        out = out.reshape(tall // WINDOW, wide // WINDOW, WINDOW, WINDOW, channels).transpose(1, 2)
        return out.reshape(1, tall, wide, channels).roll((shift, shift), (1, 2))[:, :height, :width]

    # The head

    def head(self, features: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        mask_features, memories = self.pixel_decoder(features)
        at = "panoptic_head"
        levels = self.table[f"{at}.level_embed.weight"]
        keys = [m.flatten(2).transpose(1, 2) + levels[i] for i, m in enumerate(memories)]
        places = [sine(m.shape[-2:]) for m in memories]
        query = self.table[f"{at}.query_feat.weight"][None]
        query_place = self.table[f"{at}.query_embed.weight"][None]
        classes, masks, blocked = self.predict(query, mask_features, memories[0].shape[-2:])
        for layer in range(3):
            level = layer % LEVELS
            blocked[blocked.all(-1)] = False
            one = f"{at}.transformer_decoder.layers.{layer}"
            attended = self.attention(
                f"{one}.attentions.0.attn",
                query + query_place,
                keys[level] + places[level],
                keys[level],
                blocked,
            )
            query = self.norm(f"{one}.norms.0", query + attended)
            attended = self.attention(
                f"{one}.attentions.1.attn", query + query_place, query + query_place, query, None
            )
            query = self.norm(f"{one}.norms.1", query + attended)
            query = self.norm(f"{one}.norms.2", query + self.ffn(f"{one}.ffns.0", query, F.relu))
            size = memories[(layer + 1) % LEVELS].shape[-2:]
            classes, masks, blocked = self.predict(query, mask_features, size)
        return classes, masks

    def predict(self, query, mask_features, size):
        at = "panoptic_head"
        query = self.norm(f"{at}.transformer_decoder.post_norm", query)
        x = F.relu(self.linear(f"{at}.mask_embed.0", query))
        x = self.linear(f"{at}.mask_embed.4", F.relu(self.linear(f"{at}.mask_embed.2", x)))
        masks = torch.einsum("bqc,bchw->bqhw", x, mask_features)
        small = F.interpolate(masks, size, mode="bilinear", align_corners=False)
        return self.linear(f"{at}.cls_embed", query), masks, small.flatten(2).sigmoid() < 0.5

    def attention(self, at, query, key, value, blocked):
        bias, weight = self.table[f"{at}.in_proj_bias"], self.table[f"{at}.in_proj_weight"]
        parts = [
            F.linear(x, w, b).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weight.split(WIDTH), bias.split(WIDTH), strict=True)
        ]
        scores = parts[0] @ parts[1].transpose(-2, -1) / math.sqrt(WIDTH // HEADS)
        if blocked is not None:
            scores = scores.masked_fill(blocked[:, None], -torch.inf)
        return self.linear(f"{at}.out_proj", (scores.softmax(-1) @ parts[2]).transpose(1, 2).flatten(2))

    def pixel_decoder(self, features):
        at = "panoptic_head.pixel_decoder"
        maps = [self.conv_module(f"{at}.input_convs.{i}", features[3 - i]) for i in range(LEVELS)]
        sizes = [m.shape[-2:] for m in maps]
        level = self.table[f"{at}.level_encoding.weight"]
        place = torch.cat([sine(size) + level[i] for i, size in enumerate(sizes)], 1)
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        for layer in range(2):
            one = f"{at}.encoder.layers.{layer}"
            x = self.norm(f"{one}.norms.0", x + self.deformable(f"{one}.attentions.0", x, place, sizes))
            x = self.norm(f"{one}.norms.1", x + self.ffn(f"{one}.ffns.0", x, F.relu))
        pieces = x.transpose(1, 2).split([h * w for h, w in sizes], -1)
        outputs = [piece.unflatten(-1, tuple(size)) for piece, size in zip(pieces, sizes, strict=True)]
        lateral = self.conv_module(f"{at}.lateral_convs.0", features[0])
        y = lateral + F.interpolate(outputs[-1], lateral.shape[-2:], mode="bilinear", align_corners=False)
        y = F.relu(self.conv_module(f"{at}.output_convs.0", y, padding=1))
        return self.conv(f"{at}.mask_feature", y), outputs

    def deformable(self, at, x, place, sizes):
        """Deformable attention, sampled point by point."""
        query, count = x + place, x.shape[1]
        values = self.linear(f"{at}.value_proj", x).unflatten(-1, (HEADS, -1))
        values = values.split([h * w for h, w in sizes], 1)
        offsets = self.linear(f"{at}.sampling_offsets", query).view(1, count, HEADS, LEVELS, POINTS, 2)
        shares = self.linear(f"{at}.attention_weights", query).view(1, count, HEADS, -1).softmax(-1)
        shares = shares.unflatten(-1, (LEVELS, POINTS))
        centers = torch.cat([centers_of(size) for size in sizes])
        out = torch.zeros(count, HEADS, WIDTH // HEADS)
        for level, (height, width) in enumerate(sizes):
            for head in range(HEADS):
                image = values[level][0, :, head].T.view(1, -1, height, width)
                at_points = centers[:, None] + offsets[0, :, head, level] / torch.tensor([width, height])
                sampled = F.grid_sample(image, 2 * at_points[None] - 1, align_corners=False)[0]
                out[:, head] += (sampled * shares[0, :, head, level]).sum(-1).T
        return self.linear(f"{at}.output_proj", out.flatten(1)[None])


def centers_of(size) -> torch.Tensor:
    """Centers of the cells of a map as (x, y) in [0, 1], row by row."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x / width, y / height], -1).reshape(-1, 2)


def sine(size) -> torch.Tensor:
    """mmdet's normalized `SinePositionalEncoding`, [1, H W, WIDTH]: first y, then x."""
    half = WIDTH // 2
    frequency = 10_000 ** (2 * (torch.arange(half) // 2) / half)
    parts = []
    for axis, length in enumerate(size):
        steps = torch.arange(1, length + 1) / (length + 1e-6) * 2 * math.pi
        angle = steps[:, None] / frequency
        wave = torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)
        parts.append(wave[:, None].expand(*size, half) if axis == 0 else wave[None].expand(*size, half))
    return torch.cat(parts, -1).reshape(1, -1, WIDTH)

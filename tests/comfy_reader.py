"""LoRA files as ComfyUI applies them.

By a rule that ComfyUI and kohya's scripts share, a LoRA's name is `lora_unet_` and the name of the weight in
the original layout (for SD, also in that of diffusers), with underscores for dots.
"""

from safetensors.torch import load_file


def with_lora(weights, file, strength=1.0):
    """The weights with a LoRA file applied by ComfyUI's rule, which divides a DoRA by the norm of W.

    The alpha of a module without one is its rank.
    """
    tensors, out = load_file(file), dict(weights)
    for key, weight in weights.items():
        name = f"lora_unet_{key.removesuffix('.weight').replace('.', '_')}"
        if f"{name}.lora_up.weight" not in tensors or not key.endswith(".weight"):
            continue
        up, down = tensors.pop(f"{name}.lora_up.weight"), tensors.pop(f"{name}.lora_down.weight")
        delta = (
            up.flatten(1) @ down.flatten(1) * (strength * tensors.pop(f"{name}.alpha", len(down)) / len(down))
        )
        out[key] = weight + delta.reshape(weight.shape)
        scale = tensors.pop(f"{name}.dora_scale", None)
        if scale is not None:
            norm = weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.dim() - 1))
            out[key] = out[key] * (scale / norm)
    assert not tensors  # all of the file is in use
    return out

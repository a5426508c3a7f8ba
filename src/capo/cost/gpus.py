"""Peak speed and memory of GPUs, from the vendor's data sheets."""

from dataclasses import dataclass

from capo.recipe.hints import nearest

TERA = 10**12
GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """Dense peaks in FLOP/s, without sparsity; memory in bytes."""

    name: str
    half: float
    """Matrix products in bfloat16 or float16, accumulated in float32."""
    tf32: float
    """Convolutions in float32, which torch computes in TF32."""
    single: float
    """Other float32 work, outside the tensor cores."""
    memory: int

    def peak(self, dtype: str) -> float:
        """FLOP/s in `float32`, `tf32`, `bfloat16` or `float16`."""
        return {"float32": self.single, "tf32": self.tf32}.get(dtype, self.half)


GPUS = {
    "h200": Gpu("H200 SXM", 989 * TERA, 495 * TERA, 67 * TERA, 141 * 10**9),
    "h100": Gpu("H100 SXM", 989 * TERA, 495 * TERA, 67 * TERA, 80 * GIB),
    "h100-pcie": Gpu("H100 PCIe", 756 * TERA, 378 * TERA, 51 * TERA, 80 * GIB),
    "a100-80gb": Gpu("A100 80 GB", 312 * TERA, 156 * TERA, 19.5 * TERA, 80 * GIB),
    "a100-40gb": Gpu("A100 40 GB", 312 * TERA, 156 * TERA, 19.5 * TERA, 40 * GIB),
    "l40s": Gpu("L40S", 362 * TERA, 183 * TERA, 91.6 * TERA, 48 * GIB),
    "a6000": Gpu("RTX A6000", 154.8 * TERA, 77.4 * TERA, 38.7 * TERA, 48 * GIB),
    "rtx4090": Gpu("RTX 4090", 165.2 * TERA, 82.6 * TERA, 82.6 * TERA, 24 * GIB),
    "rtx3090": Gpu("RTX 3090", 71 * TERA, 35.6 * TERA, 35.6 * TERA, 24 * GIB),
}

DEVICE_NAMES = {
    "H200": "h200",
    "H100 PCIe": "h100-pcie",
    "H100": "h100",
    "A100": "a100-80gb",
    "L40S": "l40s",
    "RTX A6000": "a6000",
    "RTX 4090": "rtx4090",
    "RTX 3090": "rtx3090",
}
"""Part of the name that a device reports → its key in `GPUS`; the first match counts."""

VARIANTS = {"NVL", "Ti", "D", "Laptop"}
"""Words in the names of faster or slower variants, whose peak is not in the table."""


def find_gpu(name: str) -> Gpu:
    """Return the GPU that `--gpu` names.

    Raises `ValueError` listing the known ones, or those that a name such as `a100` could mean.
    """
    if name.lower() in GPUS:
        return GPUS[name.lower()]
    if variants := [known for known in GPUS if known.startswith(f"{name.lower()}-")]:
        raise ValueError(f"--gpu: {name!r} could be {' or '.join(variants)}; name one of them")
    raise ValueError(f"--gpu: unknown GPU {name!r}; known: {', '.join(GPUS)}{nearest(name.lower(), GPUS)}")


def peak_of(name: str) -> float | None:
    """Dense bf16 FLOP/s of a device by its own name, such as `NVIDIA H100 80GB HBM3`; None if unknown."""
    key = find_device(name)
    return None if key is None else GPUS[key].half


def find_device(name: str) -> str | None:
    """Return the key in `GPUS` of a device by its own name; None if unknown."""
    if VARIANTS & set(name.split()):
        return None
    return next((key for part, key in DEVICE_NAMES.items() if part in name), None)

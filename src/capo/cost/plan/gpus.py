"""What GPUs can do at most, from the vendor's data sheets."""

from dataclasses import dataclass

from capo.recipe.hints import nearest

TERA = 10**12
GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """Dense peaks in FLOP/s, without sparsity; memory in bytes."""

    name: str
    half: float
    """bfloat16 and float16 matrix products, accumulated in float32."""
    tf32: float
    """What torch does float32 convolutions in."""
    single: float
    """What it does other float32 work in, outside the tensor cores."""
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


def find_gpu(name: str) -> Gpu:
    """The GPU of `--gpu`; raises `ValueError` naming those that are known."""
    if name.lower() in GPUS:
        return GPUS[name.lower()]
    raise ValueError(f"--gpu: no GPU {name!r} is known ({', '.join(GPUS)}){nearest(name.lower(), GPUS)}")

"""Hostile weights and configurations of models and rewards: malformed, pickled, of foreign classes."""

import json
import pickle
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from forks import Ended, run_in, warm
from safetensors.numpy import load_file, save
from tries import Try

import capo

CHECKPOINTS = Path(capo.__file__).parent / "shapes" / "checkpoints"
SMALL = """
name: w
prompts: {source: 'shapes:train', count: 1}
generate: {samples_per_prompt: 2, num_inference_steps: 1}
train: {beta: 1}
evaluate: {prompts: {source: 'shapes:test', count: 1}}
"""
CODE = "import pathlib\npathlib.Path({marker!r}).touch()\n"


class Touch:
    """Unpickles by touching a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with any header, of which `length` may lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start: int, end: int, shape: tuple[int, ...] = (2,), dtype: str = "F32") -> dict[str, Any]:
    """Return the entry of a tensor in a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def malformed(marker: Path) -> dict[str, bytes]:
    """Return files under the name of weights that are none."""
    return {
        "empty": b"",
        "seven bytes": b"1234567",
        "zeros": bytes(10_000),
        "header beyond the file": file({}, length=10_000),
        "header of 2^63": file({}, length=2**63),
        "header of 200 MB": file(b"{" + b" " * (200 << 20) + b"}"),
        "header that is a list": file([]),
        "header that is no JSON": file(b"x" * 100),
        "deep header": file(b"[" * 1_000_000),
        "not UTF-8": file(b'{"\xff": 1}'),
        "overlapping": file({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)),
        "a hole": file({"a": tensor(0, 8), "b": tensor(16, 24)}, bytes(24)),
        "beyond the data": file({"a": tensor(0, 80, (20,))}, bytes(8)),
        "end before start": file({"a": tensor(8, 0)}, bytes(8)),
        "negative": file({"a": tensor(-8, 0)}, bytes(8)),
        "unknown type": file({"a": tensor(0, 8, dtype="OBJECT")}, bytes(8)),
        "another size": file({"a": tensor(0, 8, (3,))}, bytes(8)),
        "overflowing size": file({"a": tensor(0, 8, (2**40, 2**40))}, bytes(8)),
        "repeated name": file(b"{%b, %b}" % ((b'"a": ' + json.dumps(tensor(0, 8)).encode(),) * 2), bytes(8)),
        "metadata of numbers": file({"__metadata__": {"a": 1}, "a": tensor(0, 8)}, bytes(8)),
        "other tensors": save({"a": np.zeros(2, np.float32)}),
        "names with commands": save({"\x1b[31mred\u202e": np.zeros(2, np.float32)}),
        "a pickle": pickle.dumps(Touch(marker)),
        "a zip": b"PK\x03\x04" + pickle.dumps(Touch(marker)),
    }  # fmt: skip


def spoiled(path: Path) -> dict[str, bytes]:
    """Return valid files with wrong weights."""
    good = load_file(path)
    first = next(name for name, value in good.items() if value.dtype.kind == "f" and value.ndim > 1)
    value = good[first]
    bad = np.full_like(value, 0)
    nan, infinite = bad.copy(), bad.copy()
    nan.flat[0], infinite.flat[-1] = np.nan, np.inf
    changes: dict[str, dict[str, np.ndarray]] = {
        "NaN": good | {first: nan},
        "infinity": good | {first: infinite},
        "a missing weight": {name: each for name, each in good.items() if name != first},
        "an unknown weight": good | {"more": bad},
        "a renamed weight": {("x" if name == first else name): each for name, each in good.items()},
        "another shape": good | {first: np.concatenate([value, value])},
        "a transposed shape": good | {first: np.ascontiguousarray(value.reshape(-1))},
        "no weights": {},
    }
    return {name: save(tensors, {"format": "pt"}) for name, tensors in changes.items()}


def attack(folder: Path) -> Iterator[Try]:
    """Load hostile weights as a reward and as a model, and hostile configurations of both."""
    marker = folder / "PWNED"
    reward, model = folder / "reward", folder / "model"
    shutil.copytree(CHECKPOINTS / "aesthetic", reward)
    shutil.copytree(CHECKPOINTS / "base", model)
    (folder / "reward.yaml").write_text(
        f"{SMALL}model: {{checkpoint: shapes}}\n"
        f"rewards: [{{name: r, source: shapes-aesthetic, checkpoint: '{reward}'}}]\n"
    )
    (folder / "model.yaml").write_text(
        f"{SMALL}model: {{checkpoint: '{model}'}}\nrewards: [{{name: r, source: shapes-aesthetic}}]\n"
    )
    warm(folder, "rewards", "check", "shapes-aesthetic")
    for stage in ("prompts", "generate"):
        warm(folder, stage, "model.yaml", "--run", "warm")

    def rated() -> Ended:
        return run_in(folder, "rewards", "check", "r", "--recipe", "reward.yaml")

    weights = reward / "model.safetensors"
    good = weights.read_bytes()
    for name, data in (malformed(marker) | spoiled(weights)).items():
        weights.write_bytes(data)
        yield _judged("weights of a reward", name, rated(), marker, str(reward))
    weights.write_bytes(good)
    yield from _each_configuration("configuration of a reward", reward, rated, marker)

    runs = iter(range(10_000))

    def sampled() -> Ended:
        run = f"run-{next(runs)}"
        first = run_in(folder, "prompts", "model.yaml", "--run", run)
        return first if first.code else run_in(folder, "generate", "model.yaml", "--run", run)

    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    good = weights.read_bytes()
    for name, data in (malformed(marker) | spoiled(weights)).items():
        weights.write_bytes(data)
        yield _judged("weights of a model", name, sampled(), marker, str(model))
    weights.write_bytes(good)
    yield from _each_configuration("configuration of a model", model, sampled, marker)


def _each_configuration(case: str, folder: Path, load: Any, marker: Path) -> Iterator[Try]:
    """Replace every JSON file of a checkpoint by hostile ones, and add code beside them."""
    for path in (folder / "evil.py", folder / "pipeline.py", folder / "unet" / "evil.py"):
        if path.parent.is_dir():
            path.write_text(CODE.format(marker=str(marker)))
    for path in sorted(folder.rglob("*.json")):
        good = path.read_bytes()
        for name, data in _configurations(good).items():
            path.write_bytes(data)
            yield _judged(case, f"{path.relative_to(folder)}: {name}", load(), marker, "", codes=(0, 1))
        path.write_bytes(good)


def _configurations(good: bytes) -> dict[str, bytes]:
    values = json.loads(good)
    numbers = [key for key, value in values.items() if isinstance(value, int | float)]
    classes = ("_class_name", "model_type", "tokenizer_class", "image_processor_type")
    automatic = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    changed: dict[str, dict[str, Any]] = {
        "remote code": {"auto_map": automatic, "trust_remote_code": True},
        "foreign classes": dict.fromkeys(classes, "evil.Evil"),
        "classes of Python": {
            "_class_name": ["os", "system"],
            "unet": ["os", "system"],
            "architectures": ["os"],
        },
        "huge numbers": dict.fromkeys(numbers, 10**9),
        "text for numbers": dict.fromkeys(numbers, "9"),
        **{f"huge {number}": {number: 10**9} for number in numbers},
    }
    return {
        "not JSON": b"{",
        "a list": b"[]",
        "deep": b"[" * 200_000,
        **{name: json.dumps({**values, **each}).encode() for name, each in changed.items()},
    }


def _judged(
    case: str, name: str, ended: Ended, marker: Path, named: str, codes: tuple[int, ...] = (1,)
) -> Try:
    fault = "ran code" if marker.exists() else ended.fault([named] if named else [], codes)
    return Try(case, name, fault, ended.outcome)

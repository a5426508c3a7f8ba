"""A complete run directory with synthetic but plausible contents, in the documented formats.

    make_run(path, Options(prompts=24, judge=False))

No model is loaded: pictures are drawn, and scores are random values that follow the drawn quality.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from capo.engine.seeds import stable_seed
from capo.recipe import Recipe, parse_recipe
from capo.store import Artifact, Run
from synthetic_numbers import pair_row, results
from synthetic_pictures import COLORS, SHAPES, draw_png

CATEGORIES = ("color_attr", "colors", "counting", "position", "single_object", "two_object")
CARD = "---\nlibrary_name: diffusers\n---\n\n# shapes\n\nA policy.\n\n## Origin\n\nMade up.\n"
NUMBERS = ("", "a", "two", "three", "four")


@dataclass(frozen=True)
class Options:
    """Properties of the run. `texts` replace the first prompts."""

    prompts: int = 24
    samples: int = 16
    evaluation_prompts: int = 36
    evaluation_samples: int = 4
    steps: int = 250
    training_rewards: tuple[str, ...] = ("preference", "vqa", "aesthetic")
    held_out: tuple[str, ...] = ("heldout",)
    selection: str = "frontier"
    pixels: int = 32
    judge: bool = True
    null_row: bool = True
    validation: bool = True
    missing: int = 0
    unread: int = 0
    gain: float = 0.5
    texts: tuple[str, ...] = ()
    categories: tuple[str, ...] = CATEGORIES
    name: str = "shapes"
    title: str | None = None
    warnings: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)


def make_recipe(options: Options) -> Recipe:
    validation = {"source": "shapes:validation", "count": 48} if options.validation else None
    values = {
        "name": options.name,
        "model": {"checkpoint": "shapes", **options.model},
        "prompts": {"source": "shapes:train", "count": options.prompts},
        "generate": {"samples_per_prompt": options.samples, "num_inference_steps": 16, "guidance_scale": 3.0},
        "rewards": [
            *(
                {"name": name, "comparison": _comparison(name)["comparison"]}
                for name in options.training_rewards
            ),
            *({"name": name, "use": "evaluate"} for name in options.held_out),
        ],
        "pairs": {"selection": options.selection},
        "train": {
            "beta": 300.0,
            "steps": options.steps,
            "learning_rate": 1e-4,
            "validate_every": max(1, options.steps // 5),
            "validation_prompts": validation,
            **options.train,
        },
        "evaluate": {
            "prompts": {"source": "shapes:test", "count": options.evaluation_prompts},
            "samples_per_prompt": options.evaluation_samples,
            "judge": "shapes" if options.judge else None,
            "null_row": options.null_row,
        },
        "report": {"title": options.title, **options.report},
    }
    return parse_recipe(values)


def make_run(path: Path, options: Options = Options()) -> tuple[Recipe, Run]:
    """Write all artifacts except the report, and close the run."""
    recipe = make_recipe(options)
    with Run.open(path, recipe) as run:
        _Maker(options, recipe, run).make()
    return recipe, Run(path)


@dataclass(frozen=True)
class _Prompt:
    prompt_id: str
    text: str
    category: str
    count: int
    color: str
    shape: str


class _Maker:
    def __init__(self, options: Options, recipe: Recipe, run: Run) -> None:
        self.options, self.recipe, self.run = options, recipe, run

    def make(self) -> None:
        for number, (name, fill) in enumerate(self._stages()):
            artifact = self.run.artifact(name)
            artifact.begin({"synthetic": True})
            artifact.commit(fill(artifact))
            self.run.record_timing(
                name,
                seconds=round(1.7 * 2.1**number, 3),
                peak_rss_bytes=700_000_000 + 90_000_000 * number,
                device="cpu",
                host="somewhere",
                finished=f"2026-11-02T10:{10 + number}:00Z",
            )

    def _stages(self) -> Iterator[tuple[str, Callable[[Artifact], dict[str, Any]]]]:
        yield "prompts", self._prompts
        yield "samples", self._samples
        for reward in self.recipe.rewards:
            yield f"scores/{reward.name}", partial(self._scores, reward=reward.name)
        yield "pairs", self._pairs
        yield "train", self._train
        yield "baseline", self._baseline
        yield "evaluate", self._evaluate

    def _drawn_prompts(self, split: str, count: int) -> list[_Prompt]:
        rng = np.random.default_rng(stable_seed("prompts", split))
        prompts = []
        for i in range(count):
            category = self.options.categories[i % len(self.options.categories)]
            shape, color = SHAPES[rng.integers(3)], list(COLORS)[rng.integers(5)]
            number = int(rng.integers(2, 5)) if category == "counting" else 1
            text = f"a drawing of {NUMBERS[number]} {color} {shape}{'s' if number > 1 else ''}"
            if i < len(self.options.texts):
                text = self.options.texts[i]
            prompts.append(_Prompt(f"{stable_seed(split, i):016x}", text, category, number, color, shape))
        return prompts

    def _prompts(self, artifact: Artifact) -> dict[str, Any]:
        prompts = self._drawn_prompts("train", self.options.prompts)
        artifact.write_table("prompts.parquet", _prompt_table(prompts))
        return {"prompts": len(prompts), "duplicates": 0}

    def _samples(self, artifact: Artifact) -> dict[str, Any]:
        prompts = self._drawn_prompts("train", self.options.prompts)
        self._images(artifact, "", prompts, self.options.samples, "train")
        return {"prompts": len(prompts), "samples": len(prompts) * self.options.samples}

    def _images(
        self, artifact: Artifact, folder: str, prompts: Sequence[_Prompt], samples: int, model: str
    ) -> None:
        size = self.recipe.generate.shard_prompts
        for shard, start in enumerate(range(0, len(prompts), size)):
            keys = [(p, k) for p in prompts[start : start + size] for k in range(samples)]
            pngs = [self._png(model, p, k) for p, k in keys]
            table = pa.table(
                {
                    "prompt_id": [p.prompt_id for p, _ in keys],
                    "sample": pa.array([k for _, k in keys], pa.int32()),
                    "seed": pa.array([stable_seed("sample", p.prompt_id, k) for p, k in keys], pa.int64()),
                    "image": pa.array(
                        [{"bytes": png, "path": None} for png in pngs],
                        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
                    ),
                }
            )
            artifact.write_table(f"{folder}/shard-{shard:05d}.parquet".lstrip("/"), table)

    def _png(self, model: str, prompt: _Prompt, sample: int) -> bytes:
        seed = stable_seed("picture", prompt.prompt_id, sample)
        quality = self._quality(model, prompt, sample)
        return draw_png(prompt.count, prompt.color, prompt.shape, quality, self.options.pixels, seed)

    def _quality(self, model: str, prompt: _Prompt, sample: int) -> float:
        """The quality of an image: mean 0, standard deviation 1, higher for the tuned model."""
        seed_of = "base" if model == "tuned" else model
        rng = np.random.default_rng(stable_seed("quality", seed_of, prompt.prompt_id, sample))
        return float(rng.normal() + (self.options.gain if model == "tuned" else 0.0))

    def _score(self, reward: str, model: str, prompt: _Prompt, sample: int) -> float:
        rng = np.random.default_rng(stable_seed("score", reward, model, prompt.prompt_id, sample))
        merit = 0.6 * self._quality(model, prompt, sample) + 0.8 * float(rng.normal())
        if reward == "vqa":
            return 1 / (1 + float(np.exp(-1.2 - 1.5 * merit)))
        if reward == "aesthetic":
            return 5.2 + 0.7 * merit
        return 20.5 + 1.1 * merit

    def _scores(self, artifact: Artifact, reward: str) -> dict[str, Any]:
        prompts = self._drawn_prompts("train", self.options.prompts)
        keys = [(p, k) for p in prompts for k in range(self.options.samples)]
        values = [self._training_score(reward, p, k, i) for i, (p, k) in enumerate(keys)]
        artifact.write_table("shard-00000.parquet", _score_table(keys, values))
        known = [v for v in values if v is not None]
        summary = {"scored": len(known), "missing": len(values) - len(known), "mean": float(np.mean(known))}
        return summary | {"truncated_prompts": self.options.unread if reward == "preference" else 0}

    def _training_score(self, reward: str, prompt: _Prompt, sample: int, row: int) -> float | None:
        lost = row < self.options.missing and reward == self.options.training_rewards[0]
        return None if lost else self._score(reward, "train", prompt, sample)

    def _pairs(self, artifact: Artifact) -> dict[str, Any]:
        prompts = self._drawn_prompts("train", self.options.prompts)
        names = self.options.training_rewards
        rows = []
        for p, prompt in enumerate(prompts):
            raw = [
                [self._training_score(n, prompt, k, p * self.options.samples + k) for n in names]
                for k in range(self.options.samples)
            ]
            rows.append({"prompt_id": prompt.prompt_id, **pair_row(raw, names, self.options.selection)})
        types = {
            "prompt_id": pa.string(),
            "chosen": pa.list_(pa.int32()),
            "rejected": pa.list_(pa.int32()),
            "calibrated": pa.list_(pa.list_(pa.float64())),
            "combined": pa.list_(pa.float64()),
        }
        table = pa.Table.from_pylist(rows, schema=pa.schema(list(types.items()))).replace_schema_metadata(
            {
                "rewards": json.dumps(names),
                "comparisons": json.dumps({name: _comparison(name) for name in names}),
            }
        )
        artifact.write_table("pairs.parquet", table)
        return {"prompts": len(rows), "pairs": sum(bool(row["chosen"]) for row in rows)}

    def _train(self, artifact: Artifact) -> dict[str, Any]:
        rng = np.random.default_rng(7)
        steps = np.arange(1, self.options.steps + 1)
        learned = 1 - np.exp(-3 * steps / self.options.steps)
        noise = rng.normal(size=(8, len(steps)))
        columns = {
            "loss": 0.16 - 0.05 * learned + 0.02 * noise[0],
            "rewards/margins": 0.28 * learned + 0.05 * noise[1],
            "delta_reward": 0.42 + 0.02 * noise[2],
            "rewards/accuracies": np.clip(0.5 + 0.22 * learned + 0.06 * noise[3], 0, 1),
            "rewards/chosen": 0.1 * learned,
            "rewards/rejected": -0.1 * learned,
            "error/chosen": 0.004 * learned**2 + 0.001 * noise[4],
            "error/rejected": 0.021 * learned + 0.001 * noise[5],
            "drift": 2.3e-4 * learned**2 * (1 + 0.1 * noise[6]),
            "grad_norm": 0.6 + 0.1 * np.abs(noise[7]),
            "learning_rate": np.full(len(steps), self.recipe.train.learning_rate),
        }
        artifact.write_json_lines(
            "metrics.jsonl",
            [{"step": int(s), **{k: float(v[i]) for k, v in columns.items()}} for i, s in enumerate(steps)],
        )
        best = self.options.steps
        if self.options.validation:
            every = self.recipe.train.validate_every
            rows: list[dict[str, Any]] = []
            for i, step in enumerate(range(every, self.options.steps + 1, every)):
                hill = 0.52 + 0.09 * float(np.sin(i * 0.62))
                rates = {name: hill + 0.012 * j for j, name in enumerate(self.options.training_rewards)}
                mean = float(np.mean(list(rates.values())))
                rates |= dict.fromkeys(self.options.held_out, 0.75 * mean + 0.12)
                rows.append(
                    {"step": step, "win_rate": mean, "standard_error": 0.01}
                    | {f"win_rate/{name}": rate for name, rate in rates.items()}
                    | {f"mean_reward/{name}": 1.0 for name in rates}
                    | (self._validation_judged(i) if self.options.judge else {})
                )
            artifact.write_json_lines("validation.jsonl", rows)
            best = max(rows, key=lambda row: row["win_rate"])["step"]
        artifact.write_json("best/capo.json", {"step": best, "adaptation": self.recipe.train.adaptation})
        artifact.write_bytes("best/README.md", CARD.encode())
        return {"best_step": best, "prompts": {"dropped": 0}}

    def _validation_judged(self, i: int) -> dict[str, float]:
        gained = 0.02 * i * (3 - i)
        return {
            "judge": 0.6 + gained,
            "judge_base": 0.6,
            "judge_difference": gained,
            "judge_standard_error": 0.02,
        }

    def _baseline(self, artifact: Artifact) -> dict[str, Any]:
        prompts = self._drawn_prompts("test", self.options.evaluation_prompts)
        artifact.write_table("prompts.parquet", _prompt_table(prompts))
        self._measure(artifact, ("base", "null") if self.options.null_row else ("base",))
        return {"prompts": len(prompts)}

    def _evaluate(self, artifact: Artifact) -> dict[str, Any]:
        prompts = self._drawn_prompts("test", self.options.evaluation_prompts)
        self._measure(artifact, ("tuned",))
        models = ("base", "tuned", "null") if self.options.null_row else ("base", "tuned")
        scores = {
            (model, reward.name): self._array(prompts, self._score, reward.name, model)
            for model in models
            for reward in self.recipe.rewards
        }
        correct = {model: self._array(prompts, self._correct, model) for model in models}
        record = results(prompts, self.recipe.rewards, scores, correct if self.options.judge else None)
        record["policy"] = {"step": 200, "adaptation": self.recipe.train.adaptation}
        record["warnings"] = list(self.options.warnings)
        artifact.write_json("results.json", record)
        return {"prompts": len(prompts)}

    def _measure(self, artifact: Artifact, models: Sequence[str]) -> None:
        prompts = self._drawn_prompts("test", self.options.evaluation_prompts)
        samples = self.options.evaluation_samples
        keys = [(p, k) for p in prompts for k in range(samples)]
        for model in models:
            self._images(artifact, f"images/{model}", prompts, samples, model)
            for reward in self.recipe.rewards:
                values = [self._score(reward.name, model, p, k) for p, k in keys]
                artifact.write_table(f"scores/{model}/{reward.name}.parquet", _score_table(keys, values))
        if self.options.judge:
            rows = [
                {"model": m, "prompt_id": p.prompt_id, "sample": k, "correct": self._correct(m, p, k)}
                for m in models
                for p, k in keys
            ]
            artifact.write_table("judgements.parquet", pa.Table.from_pylist(rows))

    def _correct(self, model: str, prompt: _Prompt, sample: int) -> bool:
        return self._quality(model, prompt, sample) > -0.4

    def _array(self, prompts: Sequence[_Prompt], of: Callable[..., Any], *key: str) -> np.ndarray:
        """Return `of(*key, prompt, sample)` for all evaluation images [P, K]."""
        return np.array([[of(*key, p, k) for k in range(self.options.evaluation_samples)] for p in prompts])


def _prompt_table(prompts: Sequence[_Prompt]) -> pa.Table:
    return pa.table(
        {
            "prompt_id": [p.prompt_id for p in prompts],
            "text": [p.text for p in prompts],
            "category": [p.category for p in prompts],
            "metadata": ["{}" for _ in prompts],
        }
    )


def _score_table(keys: Sequence[tuple[_Prompt, int]], values: Sequence[float | None]) -> pa.Table:
    return pa.table(
        {
            "prompt_id": [p.prompt_id for p, _ in keys],
            "sample": pa.array([k for _, k in keys], pa.int32()),
            "score": pa.array(values, pa.float64()),
            "error": pa.array([None if v is not None else "out of luck" for v in values], pa.string()),
        }
    )


def _comparison(reward: str) -> dict[str, Any]:
    if reward == "vqa":
        return {"comparison": "power-ratio", "exponent": 1.0}
    return {"comparison": "bradley-terry", "temperature": 1.0}

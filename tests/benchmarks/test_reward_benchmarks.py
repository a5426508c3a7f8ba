"""Benchmarks that are means of rewards: GenAI-Bench, HPDv2, PartiPrompts, DrawBench."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from capo.benchmarks.definition import FAILED
from capo.benchmarks.genai_bench import GENAI_BENCH
from capo.benchmarks.hpdv2 import HPDV2
from capo.benchmarks.judges import reward_scores
from capo.benchmarks.judges.reward_scores import official_reward, reward_section, several_rewards
from capo.benchmarks.parti_prompts import PARTI_PROMPTS
from capo.benchmarks.registry import SHIPPED, load_benchmark
from capo.cli import app
from capo.prompts import make_prompt
from capo.recipe import RewardSection
from capo.rewards import load_reward


def values(summary):
    return {score.name: score.value for score in summary.scores}


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_benchmarks_are_what_their_line_says(name):
    benchmark = load_benchmark(name, "benchmarks")
    assert benchmark.name == name
    assert set(benchmark.licenses) == {"prompts", *benchmark.judges}
    names = {score for published in benchmark.published for score in published.scores}
    assert all(published.source for published in benchmark.published)
    assert not benchmark.published or names


def test_genai_bench_counts_a_prompt_in_each_of_its_skills_and_once_in_all():
    skills = [["basic", "scene"], ["advanced", "counting", "negation"], [], ["basic", "scene", "attribute"]]
    rows = [
        {"prompt": n, "image": 0, "category": None, "score": score, "skills": skills[n]}
        for n, score in enumerate((0.2, 0.4, 0.9, 0.6))
    ]
    assert values(GENAI_BENCH.summarize(rows, "official")) == pytest.approx(
        {
            "attribute": 0.6, "scene": 0.4, "basic": 0.4,
            "counting": 0.4, "negation": 0.4, "advanced": 0.4,
            "all": 0.4,  # the third prompt has no skill, and counts nowhere
        }
    )  # fmt: skip


def test_hpdv2_is_the_mean_of_chunks_of_80_and_their_deviation():
    rng = np.random.default_rng(0)
    scores = {style: rng.uniform(20, 35, size) for style, size in (("photo", 800), ("anime", 130))}
    rows, order = [], []
    for style, numbers in scores.items():
        for index, score in enumerate(numbers):
            rows.append({"prompt": len(rows), "image": 0, "category": style, "style": style,
                         "index": index, "score": score})  # fmt: skip
    order = rng.permutation(len(rows))  # rows need not come in the official order
    summary = HPDV2.summarize([rows[i] for i in order], "official")
    chunks = {s: [np.mean(v[i : i + 80]) for i in range(0, len(v), 80)] for s, v in scores.items()}
    assert len(chunks["photo"]) == 10
    expected = {style: np.mean(means) for style, means in chunks.items()}
    expected["average"] = np.mean(np.concatenate(list(scores.values())))
    assert values(summary) == pytest.approx(expected)
    deviations = {style: np.std(means) for style, means in chunks.items()}
    assert summary.details["deviation over chunks"] == pytest.approx(deviations)


def test_partiprompts_are_means_by_reward_category_and_challenge():
    rows = [
        {
            "prompt": 0,
            "image": 0,
            "category": "Animals",
            "Challenge": "Basic",
            "scores": {"a": 1.0, "b": 5.0},
        },
        {
            "prompt": 0,
            "image": 1,
            "category": "Animals",
            "Challenge": "Basic",
            "scores": {"a": 3.0, "b": 5.0},
        },
        {"prompt": 1, "image": 0, "category": "Food", "Challenge": "Basic", "scores": {"a": 4.0, "b": -1.0}},
    ]
    summary = PARTI_PROMPTS.summarize(rows, "official")
    assert summary.overall == "a"
    assert values(summary) == {
        "a": 3.0, "a, Animals": 2.0, "a, Food": 4.0, "a, challenge Basic": 3.0,
        "b": 2.0, "b, Animals": 5.0, "b, Food": -1.0, "b, challenge Basic": 2.0,
    }  # fmt: skip
    assert PARTI_PROMPTS.summarize([], "official").scores == ()


def test_official_paths():
    prompt = make_prompt("a", metadata={"style": "concept-art", "index": 12, "id": "7"})
    assert HPDV2.layout.path(3, prompt, 0) == "concept-art/00012.jpg"
    assert GENAI_BENCH.layout.path(3, prompt, 0) == "00007.jpeg"


@pytest.fixture
def images():
    pixels = np.random.default_rng(3).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


PROMPTS = [make_prompt("a red circle", metadata={"skills": ["basic"]}), make_prompt("two blue squares")]


def test_a_judgment_has_the_scores_of_all_rewards(images):
    names = ("shapes-vqa", "shapes-aesthetic")
    judge = several_rewards()(rewards=" , ".join(names))
    judge.check(PROMPTS)
    rows = judge.load("cpu")(images, PROMPTS)
    texts = [prompt.text for prompt in PROMPTS]
    expected = {n: load_reward(RewardSection(name=n), "cpu").score(images, texts) for n in names}
    for name in names:
        assert [row["scores"][name] for row in rows] == pytest.approx(list(expected[name]))
    assert [row["score"] for row in rows] == [row["scores"]["shapes-vqa"] for row in rows]
    assert judge.fingerprint != several_rewards()(rewards="shapes-vqa").fingerprint


def test_an_image_that_one_reward_cannot_score_is_a_gap(images, monkeypatch):
    class Picky:
        name, comparison = "picky", None

        def score(self, images, prompts):
            return [0.25 if prompt == "a red circle" else float("nan") for prompt in prompts]

    monkeypatch.setattr(reward_scores, "load_reward", lambda section, device: Picky())
    judge = official_reward("hpsv2.1", scale=100, facts=("skills",), facts_source="skills.json")()
    assert judge.official
    prompts = [PROMPTS[0], make_prompt("a cow", metadata={"skills": []})]
    first, second = judge.load("cpu")(images, prompts)
    assert first == {"score": 25.0, "scores": {"hpsv2.1": 25.0}, "skills": ["basic"]}
    assert list(second) == [FAILED]
    with pytest.raises(ValueError, match=r"two blue squares.*no skills.*skills\.json"):
        judge.check(PROMPTS)


def test_other_weights_are_not_the_official_judge():
    make = official_reward("hpsv2")
    assert make().official
    assert make(checkpoint="/weights/HPS_v2_compressed.pt").official  # its release, downloaded by hand
    assert not make(checkpoint="xswu/HPSv2@0000000").official  # not the commit that was released
    flan = official_reward("vqascore-clip-flant5-xxl")
    assert flan(checkpoint="zhiqiulin/clip-flant5-xxl@0000000").official  # no commit is known as the release
    other = make(checkpoint="/weights/mine")
    assert not other.official
    assert "/weights/mine" in other.name
    assert not official_reward("vqascore-qwen3-vl", official=False)().official


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewards": ""}, "rewards"),
        ({"rewards": "pickscore,pickscore"}, "different"),
        ({"rewards": "pickscore,mps", "checkpoint": "x"}, "single reward"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_wrong_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        several_rewards()(**options)


def test_a_program_takes_the_place_of_shipped_weights():
    section = reward_section(
        "q", source="vqascore", options={"answer": "Yes"}, command="python 'my judge.py' --x"
    )
    assert section.command == ("python", "my judge.py", "--x")
    assert section.source is None


def test_missing_prompts_are_one_problem(tmp_path):
    place = ["--prompts", str(tmp_path), "--run", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["benchmark", "hpdv2", "--model", "shapes", *place])
    assert result.exit_code == 1
    assert result.output.count("anime.json") == 1

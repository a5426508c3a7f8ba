"""Language models as judges against their formulas, on tiny checkpoints in the official layouts."""

import hashlib
import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    CLIPVisionModel,
    LlavaForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

import tiny_language_rewards
import tiny_rewards
from capo import BradleyTerry, PowerRatio
from capo.recipe import RewardSection
from capo.rewards import RewardError, build_comparison, load_reward, reward_identity
from capo.rewards.catalog import CLIP_VIT_L_336
from capo.rewards.models import hpsv3_instruction
from capo.rewards.models.vlm_judge import parse_score
from tiny_language_rewards import VOCABULARY

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
PROMPTS = ["a red circle", "two blue circle and a red triangle", "green"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("language")
    words = root / "hpsv3.txt"
    words.write_text("Rate {text_prompt} of this image: <|Reward|> show .", encoding="utf-8")
    return {
        "t5": tiny_language_rewards.clip_t5(root / "t5"),
        "hpsv3": tiny_language_rewards.hpsv3(root / "hpsv3"),
        "instruction": words,
        "llava": tiny_rewards.vqa(root / "llava"),
        "qwen": tiny_rewards.qwen(root / "qwen"),
    }


@pytest.fixture(scope="module")
def squares():
    """Images of the input size of the tiny vision towers."""
    shape = (3, tiny_rewards.PIXELS, tiny_rewards.PIXELS, 3)
    return [Image.fromarray(p) for p in np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)]


def load(source, folder, **options):
    return load_reward(RewardSection(name="r", source=source, checkpoint=str(folder), options=options), "cpu")


def pixel_values(image):
    scaled = (np.asarray(image, dtype=np.float64) / 255 - MEAN) / STD
    return torch.from_numpy(scaled.transpose(2, 0, 1)).float()[None]


def ids(text):
    return torch.tensor([[VOCABULARY.get(word, VOCABULARY["<unk>"]) for word in text.split()]])


@torch.no_grad()
def test_clip_t5_is_the_root_of_yes_and_end(folders, squares):
    """exp(mean log P) of Yes and </s> after words, </s>, CLIP layer -2 without class token, words, </s>."""
    weights = load_file(folders["t5"] / "model.safetensors")
    config = T5Config.from_pretrained(folders["t5"])
    t5 = T5ForConditionalGeneration(config).eval()
    t5.lm_head.weight = torch.nn.Parameter(weights["lm_head.weight"])  # not tied in Flan-T5
    own = {n: t for n, t in weights.items() if not n.startswith(("mm_", "embed_tokens"))}
    assert not t5.load_state_dict(own, strict=False).unexpected_keys
    assert not torch.equal(weights["lm_head.weight"], weights["shared.weight"])
    tower = CLIPVisionModel.from_pretrained(folders["t5"] / "tower").eval()
    before = ids(
        "A chat between a curious user and an artificial intelligence assistant . The assistant gives "
        "helpful , detailed , and polite answers to the user ' s questions . USER : </s>"
    )
    expected = []
    for image, prompt in zip(squares, PROMPTS, strict=True):
        patches = tower(pixel_values(image), output_hidden_states=True).hidden_states[-2][:, 1:]
        for n in (0, 2):
            w, b = weights[f"mm_projector.{n}.weight"], weights[f"mm_projector.{n}.bias"]
            patches = patches @ w.T + b
            if n == 0:
                patches = torch.nn.functional.gelu(patches)
        # The tokenizer keeps `"?` together as one unknown token.
        after = ids(f'Does this figure show " {prompt} "? Please answer yes or no . ASSISTANT : </s>')
        embedded = weights["shared.weight"]
        whole = torch.cat([embedded[before], patches, embedded[after]], dim=1)
        start = torch.tensor([[0, VOCABULARY["Yes"]]])
        logits = t5(inputs_embeds=whole, decoder_input_ids=start).logits[0].double()
        p = logits.softmax(-1)
        expected.append(math.sqrt(p[0, VOCABULARY["Yes"]] * p[1, VOCABULARY["</s>"]]))
    scores = load("vqascore-clip-flant5-xl", folders["t5"]).score(squares, PROMPTS)
    assert len(set(expected)) == 3
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_clip_t5_pads_oblong_images_with_the_mean_color(folders):
    reward = load("vqascore-clip-flant5-xl", folders["t5"])
    wide = Image.new("RGB", (16, 6), "red")
    square = Image.new("RGB", (16, 16), (122, 116, 104))
    square.paste(wide, (0, 5))
    np.testing.assert_array_equal(reward.score([wide], ["a"]), reward.score([square], ["a"]))


def test_clip_t5_maps_unknown_words_to_one_token_and_cuts_long_questions(folders, squares):
    """The formula above shows that an unknown word counts: every question has one."""
    reward = load("vqascore-clip-flant5-xl", folders["t5"])
    first, second = reward.score(squares[:1] * 2, ["a zebra circle", "a crimson circle"])
    assert first == pytest.approx(second, rel=1e-6)
    assert reward.truncated(["a", "red " * 2048]) == [False, True]
    assert np.isfinite(reward.score(squares[:1], ["red " * 3000])).all()


def test_the_vision_tower_of_clip_t5_is_part_of_the_identity(folders, tmp_path, squares, monkeypatch):
    """With shipped weights by its commit; with other weights if the option names it."""
    tower = CLIP_VIT_L_336
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert reward_identity(RewardSection(name="vqascore-clip-flant5-xl")).split()[-1] == f"{tower}@main"
    section = {"name": "r", "source": "vqascore-clip-flant5-xl", "checkpoint": str(folders["t5"])}
    alone = reward_identity(RewardSection(**section))
    assert tower not in alone
    moved = shutil.copytree(folders["t5"] / "tower", tmp_path / "tower")
    named = RewardSection(**section, options={"vision_tower": str(moved)})
    before = reward_identity(named)
    assert before.startswith(alone + " ")
    assert str(moved) not in before
    plain = load("vqascore-clip-flant5-xl", folders["t5"]).score(squares, PROMPTS)
    np.testing.assert_array_equal(load_reward(named, "cpu").score(squares, PROMPTS), plain)
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    assert reward_identity(named) != before
    with pytest.raises(RewardError, match=r"'tower\.pt' is neither a directory nor a Hub id"):
        load("vqascore-clip-flant5-xl", folders["t5"], vision_tower="tower.pt")


@torch.no_grad()
def test_hpsv3_is_a_head_on_the_reward_token(folders, squares):
    """W3 relu(W2 relu(W1 h)) of the last layer at <|Reward|>, with one-dimensional positions."""
    weights = load_file(folders["hpsv3"] / "HPSv3.safetensors")
    model = Qwen2VLForConditionalGeneration.from_pretrained(folders["hpsv3"] / "whole").eval()
    reward = load("hpsv3", folders["hpsv3"], instruction=str(folders["instruction"]))
    expected = []
    for image, prompt in zip(squares, PROMPTS, strict=True):
        prepared = reward._processor.image_processor(
            [image], size={"shortest_edge": 200_704, "longest_edge": 200_704}, return_tensors="pt"
        )
        assert prepared.image_grid_thw.tolist() == [[1, 32, 32]]  # 448 x 448 in patches of 14
        pieces = f"Rate {prompt} of this image :"
        text = "<|vision_start|> " + "<|image_pad|> " * 256 + f"<|vision_end|> {pieces}"
        tail = ids("show . <|im_end|> ASSISTANT")
        row = torch.cat([ids(text), torch.tensor([[len(VOCABULARY)]]), tail], dim=1)
        positions = torch.arange(row.shape[1]).expand(3, 1, -1)
        hidden = model.model(input_ids=row, position_ids=positions, **prepared).last_hidden_state
        x = hidden[0, -1 - tail.shape[1]]
        for n in (0, 3, 5):
            x = weights[f"rm_head.{n}.weight"] @ x + weights[f"rm_head.{n}.bias"]
            x = x.relu() if n < 5 else x
        expected.append(float(x[0]))
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(reward.score(squares, PROMPTS), expected, atol=1e-4)


def test_hpsv3_needs_its_instruction(folders, tmp_path, monkeypatch):
    with pytest.raises(RewardError, match=r"pip install --no-deps hpsv3.*instruction: FILE"):
        load("hpsv3", folders["hpsv3"])
    bad = tmp_path / "bad.txt"
    bad.write_text("Rate {text_prompt}")
    with pytest.raises(RewardError, match=r"must contain \{text_prompt\} and <\|Reward\|>"):
        load("hpsv3", folders["hpsv3"], instruction=str(bad))
    package = tmp_path / "hpsv3" / "dataset"
    package.mkdir(parents=True)
    (tmp_path / "hpsv3" / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "data_collator_qwen.py").write_text(
        'import nothing\nINSTRUCTION = """Rate {text_prompt} of this image:"""\n'
        'prompt_with_special_token = " <|Reward|> show ."\n'
    )
    section = RewardSection(name="hpsv3", checkpoint=str(folders["hpsv3"]))
    before = reward_identity(section)
    monkeypatch.syspath_prepend(tmp_path)
    text = "Rate {text_prompt} of this image: <|Reward|> show ."
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    assert reward_identity(section) == f"{before} blake2b:{digest}"  # differs from the known text
    monkeypatch.setattr(hpsv3_instruction, "KNOWN_DIGEST", digest)
    assert reward_identity(section) == before
    image = [Image.new("RGB", (30, 20), "red")]
    named = load("hpsv3", folders["hpsv3"], instruction=str(folders["instruction"]))
    installed = load("hpsv3", folders["hpsv3"])
    np.testing.assert_array_equal(installed.score(image, ["a"]), named.score(image, ["a"]))
    with pytest.raises(ValueError, match=r"contains '<\|Reward\|>'"):
        installed.score(image, ["a <|Reward|>"])


def llava_logits(folder, image, question):
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    words = {word: i for i, word in enumerate(tiny_rewards.VQA_WORDS.split())}
    pieces = ["USER", ":", *["<image>"] * 4, *question.split(), "ASSISTANT", ":"]
    row = torch.tensor([[words.get(piece, words["<unk>"]) for piece in pieces]])
    return model(input_ids=row, pixel_values=pixel_values(image)).logits[0, -1].double(), words


@torch.no_grad()
def test_vqa_template_answer_and_normalization(folders, squares):
    logits, words = llava_logits(folders["llava"], squares[0], "Does this show a red circle ?")
    yes, no = logits[words["yes"]], logits[words["no"]]
    template = "Does this show {} ?"
    reward = load("vqascore", folders["llava"], template=template, normalize="yes_no")
    expected = float(1 / (1 + (no - yes).exp()))
    assert reward.score(squares[:1], ["a red circle"])[0] == pytest.approx(expected, rel=1e-5)
    reward = load("vqascore", folders["llava"], template=template, answer="No")
    expected = float(no.exp() / logits.exp().sum())
    assert reward.score(squares[:1], ["a red circle"])[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "Is it?"}, r"must contain \{\} exactly once"),
        ({"normalize": "half"}, r"option normalize: .* 'full' or 'yes_no', got 'half'"),
        ({"normalize": "yes_no", "answer": "red"}, "needs the answer Yes or No"),
        ({"answer": "zebra"}, "no single token for zebra"),
        ({"tempate": "{}"}, "did you mean 'template'"),
    ],
)
def test_vqa_options_are_checked(folders, options, message):
    with pytest.raises(RewardError, match=message):
        load("vqascore", folders["llava"], **options)


@torch.no_grad()
def test_rating_is_the_mean_of_levels(folders, squares, tmp_path):
    """Σ w softmax(z) over the five words only, with w from 1 to 0, after question and stem."""
    folder = tmp_path / "llava"
    shutil.copytree(folders["llava"], folder)
    words = tiny_rewards.VQA_WORDS.split()
    levels = ["red", "green", "blue", "circle", "square"]
    # Rename five tokens to the levels.
    table = json.loads((folder / "tokenizer.json").read_text())
    for level, word in zip(("excellent", "good", "fair", "poor", "bad"), levels, strict=True):
        table["model"]["vocab"][level] = table["model"]["vocab"].pop(word)
    (folder / "tokenizer.json").write_text(json.dumps(table))
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    row = ["USER", ":", *["<image>"] * 4, *["Does", "this", "show", "two", "?", "ASSISTANT", ":", "figure"]]
    index = {word: i for i, word in enumerate(words)}
    row = torch.tensor([[index.get(word, index["<unk>"]) for word in row]])
    logits = model(input_ids=row, pixel_values=pixel_values(squares[0])).logits[0, -1].double()
    weights = logits[[index[word] for word in levels]].exp()
    expected = float((weights * torch.tensor([1, 0.75, 0.5, 0.25, 0])).sum() / weights.sum())
    reward = load("q-realign-quality", folder, question="Does this show two ?", stem=" figure")
    assert reward.score(squares[:1], ["red"])[0] == pytest.approx(expected, rel=1e-5)
    assert reward.score(squares[:1], ["green"])[0] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(RewardError, match=r"excellent, good.* same token"):
        load("q-realign-quality", folders["llava"])


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("It is fine.\nFinal Score: 4", 4),
        ("**Final Score:** 3.75\n", 3.75),
        ("final score:2.", 2),
        ("Final Score: 4\nSo, Final Score: 4", 4),
        ("Final Score: 4\nFinal Score: 3", None),
        ("Final Score: 4/5", None),
        ("Final Score: 80%", None),
        ("Final Score: 3-4", None),
        ("Final Score: 6", None),
        ("Final Score: -1", None),
        ("Final Score: four", None),
        ("Final Score:", None),
        ("Semifinal Score: 4", None),
        ("I would say 4", None),
        ("", None),
    ],
)
def test_only_one_plain_number_is_a_score(answer, score):
    value = parse_score(answer, "Final Score", 1, 5)
    assert math.isnan(value) if score is None else value == score


def test_the_label_selects_the_score():
    answer = "Alignment Score (1-5): 2.6947\nStyle Score (1-5): 4.1"
    assert parse_score(answer, "Style Score (1-5)", 1, 5) == 4.1


@torch.no_grad()
def test_the_judge_decodes_greedily(folders, squares, tmp_path):
    """Every word is the argmax of a forward pass. An answer without a score is a missing score."""
    template = tmp_path / "judge.txt"
    template.write_text("show {prompt} ?", encoding="utf-8")
    reward = load("vlm-judge", folders["llava"], template=str(template), max_new_tokens=3)
    model = LlavaForConditionalGeneration.from_pretrained(folders["llava"]).eval()
    words = tiny_rewards.VQA_WORDS.split()
    expected = []
    for image, prompt in zip(squares, PROMPTS, strict=True):
        text = ["USER", ":", *["<image>"] * 4, "show", *prompt.split(), "?", "ASSISTANT", ":"]
        row = [words.index(word) for word in text]
        for _ in range(3):
            logits = model(input_ids=torch.tensor([row]), pixel_values=pixel_values(image)).logits
            row.append(int(logits[0, -1].argmax()))
            if words[row[-1]] == "</s>":
                break
        special = {"<pad>", "<s>", "</s>", "<unk>", "<image>"}
        expected.append([words[i] for i in row[len(text) :] if words[i] not in special])
    texts = [reward._model.ask(f"show {prompt} ?") for prompt in PROMPTS]
    assert [answer.split() for answer in reward._model.answers(squares, texts, 3)] == expected
    assert np.isnan(reward.score(squares, PROMPTS)).all()
    with pytest.raises(RewardError, match="must be below maximum"):
        load("vlm-judge", folders["llava"], minimum=5)
    with pytest.raises(RewardError, match="cannot be read"):
        load("vlm-judge", folders["llava"], template=str(tmp_path / "none.txt"))


@pytest.mark.parametrize(
    ("source", "comparison"),
    [
        ("vqascore-qwen3-vl", PowerRatio(1.0)),
        ("vqascore-clip-flant5-xxl", PowerRatio(1.0)),
        ("hpsv3", BradleyTerry(1.0)),
        ("q-realign-aesthetics", BradleyTerry(0.1)),
        ("vlm-judge", BradleyTerry(0.5)),
    ],
)
def test_declared_comparisons(source, comparison):
    assert build_comparison(RewardSection(name=source)) == comparison

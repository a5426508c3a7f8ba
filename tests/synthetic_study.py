"""A small human study and votes for it, without a model or a browser."""

import io
import json

from PIL import Image

from capo.people import human_study
from capo.people.human_study import HumanStudy, Key, content_digest, is_swapped, sha256_of
from capo.people.votes import ballot_name, ballot_text
from capo.store.manifest import pretty

AT = "2026-01-02T03:04:05.678Z"


def picture(color, size=16):
    """Return the bytes of a PNG of one color."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).save(buffer, "PNG")
    return buffer.getvalue()


def write_study(folder, prompts=8, questions=("looks",), tie=False, more=(), repeated=0, identical=0):
    """Write a study of `tuned`, and the models `more`, against `base`, one pair a prompt and model.

    The tuned model is on the left of pairs with even numbers.
    """
    pairs, key = [], {}

    def add(prompt_id, left, right, names, catch=None, of=None):
        name = f"p{len(pairs) + 1:04}"
        pairs.append({"pair": name, "prompt": f"prompt {prompt_id}", "left": left, "right": right})
        key[name] = dict(zip(("left", "right"), names, strict=True)) | {
            "prompt_id": f"id{prompt_id}", "category": "even" if prompt_id % 2 == 0 else "odd",
            "catch": catch, "of": of,
        }  # fmt: skip
        return name

    def image(model, prompt_id):
        shade = 40 * (["base", "tuned", *more].index(model) + 1)
        data = picture((shade, prompt_id % 256, prompt_id // 256))
        digest = sha256_of(data)
        path = folder / human_study.PAGE / human_study.image_path(digest, "png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return {"file": human_study.image_path(digest, "png"), "sha256": digest, "width": 16, "height": 16}

    for model in ("tuned", *more):
        for i in range(prompts):
            sides = [(model, image(model, i)), ("base", image("base", i))]
            sides = sides if i % 2 == 0 else sides[::-1]
            name = add(i, sides[0][1], sides[1][1], [sides[0][0], sides[1][0]])
            if model == "tuned" and i < repeated:
                add(i, sides[1][1], sides[0][1], [sides[1][0], sides[0][0]], "repeated", name)
            if model == "tuned" and i < identical:
                add(i, sides[0][1], sides[0][1], [sides[0][0]] * 2, "identical", name)
    models = {name: {"name": f"the {name}", "identity": name} for name in ("base", "tuned", *more)}
    secret = {"format": 1, "models": models, "seed": 0, "pairs": key}
    values = {
        "format": 1, "title": "A study", "instruction": "Pick the better one.",
        "questions": [{"name": name, "text": f"Which {name} better?"} for name in questions],
        "tie": tie, "raters": 5, "pairs": pairs,
        "key": content_digest(Key.model_validate(secret).model_dump(mode="json")),
    }  # fmt: skip
    values["id"] = human_study.study_id(values)
    (folder / human_study.STUDY).write_text(pretty(values), encoding="utf-8")
    (folder / human_study.KEY).write_text(pretty(secret), encoding="utf-8")
    return HumanStudy.model_validate_json(json.dumps(values))


def ballot(study, rater, choose, ms=2000):
    """Return the content of a votes file; `choose(pair, question)` is a side in study.json, or `tie`."""
    votes = []
    for pair in study.pairs:
        swapped = is_swapped(study, rater, pair)
        for question in study.questions:
            side = choose(pair, question.name)
            shown = {"left": "right", "right": "left", "tie": "tie"}[side] if swapped else side
            votes.append(
                {"pair": pair.pair, "question": question.name, "choice": shown, "swapped": swapped,
                 "ms": ms, "at": AT}
            )  # fmt: skip
    return {
        "format": 1, "study": study.id, "rater": rater, "started": AT, "finished": AT, "agent": "test",
        "votes": votes,
    }  # fmt: skip


def write_ballot(folder, study, content):
    """Write a votes file and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ballot_name(study, content["rater"])
    path.write_text(ballot_text(content), encoding="utf-8")
    return path

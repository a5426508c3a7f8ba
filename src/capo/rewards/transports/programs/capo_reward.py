"""Score images for capo from any Python: needs only Pillow, to decode the images.

    from capo_reward import serve_stdio

    def score(images, prompts):            # RGB Pillow images, and their prompts
        return [model(image, prompt) for image, prompt in zip(images, prompts)]

    serve_stdio(score, comparison={"comparison": "bradley-terry", "temperature": 1.0})

capo starts the program and speaks with it in lines of JSON, one question and one answer at a time:

    {"protocol": 1}                                             {"protocol": 1, "comparison": …}
    {"id": 1, "images": [{"png": base64}, …], "prompts": […]}   {"id": 1, "scores": [0.5, null, …]}

An answer may have `errors`, null or the reason for each image, or `error`, when there are no
scores at all; and `truncated`, whether only the beginning of each prompt was read. The program ends
when its input does.
"""

import base64
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

PROTOCOL = 1

Score = Callable[[list[Any], list[str]], Iterable[Any]]
Truncated = Callable[[list[str]], Iterable[bool]]


def serve_stdio(
    score: Score, comparison: "str | dict[str, Any] | None" = None, truncated: "Truncated | None" = None
) -> None:
    """Answer on stdout what is asked on stdin, until it ends.

    Args:
        score: takes a list of RGB Pillow images and the list of their prompts; returns a number
            for each, higher is better, or None where there is none.
        comparison: how two scores compare: `bradley-terry`, `power-ratio`, `threshold`, a table as
            `{"comparison": "bradley-terry", "temperature": 0.1}`, or None when the recipe says it.
        truncated: takes the list of prompts; returns for each whether it is longer than what `score`
            reads of it. None when that is not known.
    """
    # What the function and its libraries print must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        question = json.loads(line)
        if "protocol" in question:
            answer = {"protocol": PROTOCOL, "comparison": comparison}
        else:
            answer = _answer(score, truncated, question)
        answers.write(json.dumps(answer, allow_nan=False) + "\n")
        answers.flush()


def _answer(score: Score, truncated: "Truncated | None", question: dict[str, Any]) -> dict[str, Any]:
    try:
        images = [_decode(image) for image in question["images"]]
        told: dict[str, Any] = {"scores": [_number(each) for each in score(images, question["prompts"])]}
        if truncated is not None:
            told["truncated"] = [bool(each) for each in truncated(question["prompts"])]
    except Exception as error:  # whatever it is, capo must be told
        return {"id": question["id"], "error": f"{type(error).__name__}: {error}"}
    return {"id": question["id"], **told}


def _decode(image: dict[str, str]) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(image["png"]))).convert("RGB")


def _number(value: Any) -> float | None:
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None


def _named(path: str) -> Any:
    """The function that `package.module:function` names, from the current directory or installed."""
    sys.path.append(str(Path.cwd()))
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


if __name__ == "__main__":
    function = _named(sys.argv[1])
    serve_stdio(function, getattr(function, "comparison", None), getattr(function, "truncated", None))

"""Score images for capo from any Python: needs only Pillow, to decode the images.

    from capo_reward import serve_stdio

    def score(images, prompts):            # RGB Pillow images and their prompts
        return [model(image, prompt) for image, prompt in zip(images, prompts)]

    serve_stdio(score, comparison={"comparison": "bradley-terry", "temperature": 1.0})

capo starts the program and exchanges lines of JSON with it, one request and one answer at a time:

    {"id": 1, "protocol": 1}                                    {"protocol": 1, "comparison": …}
    {"id": 2, "images": [{"png": base64}, …], "prompts": […]}   {"id": 2, "scores": [0.5, null, …]}

An answer has the id of its request. It may have `errors`, null or the reason for each image; `truncated`,
whether only the beginning of each prompt was read; or `error` instead of scores. The program ends when its
input does.
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
    """Answer the requests on stdin, until it ends.

    Args:
        score: takes a list of RGB Pillow images and the list of their prompts; returns one number for every
            image, higher is better, or None for an image without a score.
        comparison: how two scores compare: `bradley-terry`, `power-ratio`, `threshold`, a table such as
            `{"comparison": "bradley-terry", "temperature": 0.1}`, or None if the recipe says it.
        truncated: takes the list of prompts; returns for every prompt whether it is longer than what `score`
            reads. None if that is unknown.
    """
    # Output of the function and its libraries must not mix with the answers: stdout becomes stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if "protocol" in request:
            answer = {"protocol": PROTOCOL, "comparison": comparison}
        else:
            answer = _answer(score, truncated, request)
        answers.write(json.dumps(answer, allow_nan=False) + "\n")
        answers.flush()


def _answer(score: Score, truncated: "Truncated | None", request: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"id": request["id"]}
    try:
        images = [_decode(image) for image in request["images"]]
        scores = [_number(value) for value in score(images, request["prompts"])]
        cut = None if truncated is None else [bool(value) for value in truncated(request["prompts"])]
    except Exception as error:  # of any kind: capo reports it
        return answer | {"error": f"{type(error).__name__}: {error}"}
    return answer | {"scores": scores} | ({} if cut is None else {"truncated": cut})


def _decode(image: dict[str, str]) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(image["png"]))).convert("RGB")


def _number(value: Any) -> float | None:
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None


def _import(path: str) -> Any:
    """Return the function that `package.module:function` names, installed or in the current directory."""
    sys.path.append(str(Path.cwd()))
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


if __name__ == "__main__":
    function = _import(sys.argv[1])
    serve_stdio(function, getattr(function, "comparison", None), getattr(function, "truncated", None))

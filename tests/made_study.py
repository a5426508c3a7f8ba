"""Small studies made of drawn images."""

import io
from pathlib import Path

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from capo.people.build_study import ModelImages, StudySettings, build_study
from capo.people.human_study import HumanStudy
from capo.prompts import make_prompt

TEXTS = (
    "a red circle",
    "</script><script>alert(1)</script> and \u2028 two squares",
    "ein Haus am Fluß, 夕暮れ 🌇",
    "a long prompt, " + "with more and more words " * 20,
)
PROMPTS = [make_prompt(text, category=("one", "two")[n % 2]) for n, text in enumerate(TEXTS)]
SECRETS = {"base": "stable-secret-base", "tuned": "capo-secret-tuned", "more1": "other-secret-model"}
"""The names of the models, which no rater may see."""


def drawn(label, size=48):
    """The image file of a prompt by one model: its metadata name the model."""

    def read(prompt):
        place = PROMPTS.index(prompt)
        color = {"base": (200, 60, 40), "tuned": (40, 90, 200), "more1": (60, 160, 60)}[label]
        image = Image.new("RGB", (size, size), (240, 240 - 20 * place, 230))
        ImageDraw.Draw(image).ellipse((6, 6, 20 + 6 * place, 20 + 6 * place), color)
        about = PngInfo()
        about.add_text("parameters", SECRETS[label])
        buffer = io.BytesIO()
        image.save(buffer, "PNG", pnginfo=about)
        return buffer.getvalue()

    return read


def make(to: Path, labels=("base", "tuned"), prompts=PROMPTS, **settings) -> HumanStudy:
    models = {label: ModelImages(SECRETS[label], f"identity-{label}", drawn(label)) for label in labels}
    return build_study(to, prompts, models, StudySettings(**{"catches": 2, **settings}))


def wait_for_pair(tab, number):
    """Wait until a pair can be answered."""
    tab.wait_for_function(
        "n => document.getElementById('number').textContent.startsWith(`${n} of`)"
        " && !document.querySelector('#images.waiting')",
        arg=number,
    )


def answer(tab, number, touch, ties=True):
    """Answer one pair: left, right, tie, in turn."""
    wait_for_pair(tab, number)
    choice = ("left", "right", "tie" if ties else "left")[number % 3]
    if touch:
        tab.tap(f"#{choice}")
    else:
        tab.keyboard.press({"left": "ArrowLeft", "right": "ArrowRight", "tie": " "}[choice])
    return choice

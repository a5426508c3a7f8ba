"""Function rewards, good and bad, for tests that name them by import path."""

import numpy as np

from capo import BradleyTerry, PowerRatio


def redness(images, prompts):
    return [np.asarray(image)[..., 0].mean() / 255 for image in images]


def contrast(images, prompts):
    """Depends on the prompt too."""
    return [float(np.asarray(i).std()) + len(p) for i, p in zip(images, prompts, strict=True)]


def undeclared(images, prompts):
    return [0.0] * len(images)


def negative(images, prompts):
    return [-1.0] * len(images)


def gappy(images, prompts):
    """Gives no score if the first pixel is dark, and raises if it is very red."""
    scores = redness(images, prompts)
    for i, image in enumerate(images):
        red = image.getpixel((0, 0))[0]
        if red > 240:
            raise RuntimeError("too red")
        if red < 16:
            scores[i] = float("nan")
    return scores


def painter(images, prompts):
    """Brightness; paints over the images, in place."""
    scores = [np.asarray(image).mean() / 255 for image in images]
    for image in images:
        image.paste("black", (0, 0, image.width, image.height))
    return scores


def broken(images, prompts):
    raise RuntimeError("no such model")


eaten = []


def hungry(images, prompts):
    """Runs out of memory on the first call."""
    if not eaten:
        eaten.append(len(images))
        raise MemoryError
    return [1.0] * len(images)


redness.comparison = PowerRatio()
contrast.comparison = BradleyTerry(temperature=10.0)
negative.comparison = PowerRatio()
gappy.comparison = BradleyTerry(temperature=0.1)
painter.comparison = BradleyTerry()
broken.comparison = BradleyTerry()
hungry.comparison = BradleyTerry()
not_a_function = 3

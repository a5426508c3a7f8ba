"""Measure each part of the pipeline on this machine: time, memory, share of the chip's peak.

An architecture is measured at its real size with random weights, so nothing is downloaded. A recipe is
measured with its own weights.
"""

from enum import StrEnum


class BenchPart(StrEnum):
    """A part of the pipeline that can be measured."""

    TRAIN = "train"
    GENERATE = "generate"
    DECODE = "decode"
    SCORE = "score"
    PAIRS = "pairs"

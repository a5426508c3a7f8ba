"""A shard of samples while it is filled, batch by batch."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from capo.images.sample_table import sample_table, score_columns
from capo.prompts import Prompt
from capo.rewards import Scored

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor


class SampleKey(NamedTuple):
    """One sample of a shard: the position of its prompt in the shard, its number, and its seed."""

    prompt: int
    sample: int
    seed: int


@dataclass
class ShardBuilder:
    """The samples of some prompts, in the order they are made; the table sorts them."""

    number: int
    prompts: Sequence[Prompt]
    rows: list[SampleKey] = field(default_factory=list)
    latents: "list[Tensor]" = field(default_factory=list)
    """Batches [B, C, H, W] of the rows, float32 on the CPU."""
    images: "list[Future[list[bytes]]]" = field(default_factory=list)
    """Batches of image files, which may still be encoding."""
    scores: dict[str, list[Scored]] = field(default_factory=dict)
    """By reward, the scores of the first rows, where sampling needed them."""

    def add(self, rows: Sequence[SampleKey], latents: "Tensor", images: "Future[list[bytes]]") -> None:
        """Append a batch."""
        self.rows += rows
        self.latents.append(latents)
        self.images.append(images)

    def files(self) -> list[bytes]:
        """Wait for the image files of all rows so far and return them."""
        return [image for batch in self.images for image in batch.result()]

    def all_latents(self) -> "Tensor":
        """Return [rows, C, H, W], sorted by prompt, then sample."""
        import torch

        return torch.cat(self.latents)[self._order]

    def table(self) -> "pa.Table":
        """Wait for the image files and return all rows, sorted by prompt, then sample."""
        import pyarrow as pa

        rows, files, order = self.rows, self.files(), self._order
        columns = {
            "prompt_id": pa.array([self.prompts[rows[n].prompt].prompt_id for n in order], pa.string()),
            "sample": pa.array([rows[n].sample for n in order], pa.int32()),
            "seed": pa.array([rows[n].seed for n in order], pa.int64()),
        }
        for name, known in self.scores.items():
            columns |= score_columns(name, [known[n] if n < len(known) else None for n in order])
        return sample_table(columns, [files[n] for n in order])

    @property
    def _order(self) -> list[int]:
        return sorted(range(len(self.rows)), key=self.rows.__getitem__)

"""The training loop: steps, checkpoints and validations, from wherever a run stopped."""

from collections.abc import Callable
from dataclasses import dataclass

from capo.progress import progress
from capo.recipe import TrainSection
from capo.training.batches import Batches
from capo.training.checkpoint import Checkpoints
from capo.training.log import Log, Row, best_row
from capo.training.step import Trainer


@dataclass
class Loop:
    """All that takes part in training; `run` ends with the policy of the last step."""

    section: TrainSection
    trainer: Trainer
    batches: Batches
    checkpoints: Checkpoints
    metrics: Log
    validations: Log
    validate: Callable[[int], Row] | None
    """From a step to its row of `validation.jsonl`; None: no validation."""

    def run(self, start: int) -> None:
        """Go on from the state of step `start` (0: the base model)."""
        self.metrics.rewind(start)
        self.validations.rewind(start)
        with progress("train", self.section.steps, "steps") as bar:
            bar.advance(start, resumed=True)
            self._validate(start)
            for step in range(start + 1, self.section.steps + 1):
                row = {"step": step, **self.trainer.step(step, self.batches.batch(step))}
                self._record(row)
                bar.note(f"loss {row['loss']:.4f}")
                bar.advance()
                # Before the validation, which may take long: what was learned is safe.
                self._save(step)
                self._validate(step)

    def best_step(self) -> int:
        """The step of the best validation; without validations the last one."""
        best = best_row(self.validations.rows)
        return self.section.steps if best is None else int(best["step"])

    def prune(self) -> None:
        """Remove the checkpoints that are neither among the newest nor the best."""
        best = best_row(self.validations.rows)
        self.checkpoints.prune(self.section.keep_checkpoints, None if best is None else best["step"])

    def _record(self, row: Row) -> None:
        if row["step"] % self.section.log_every == 0 or row["step"] == self.section.steps:
            self.metrics.add(row)

    def _save(self, step: int) -> None:
        if step % self.section.checkpoint_every == 0 or self._validates(step):
            self.metrics.flush()  # first: rows ahead of the checkpoint are rewound, missing ones lost
            self.checkpoints.save(step)
            self.prune()

    def _validate(self, step: int) -> None:
        done = any(row["step"] == step for row in self.validations.rows)
        if self.validate is not None and self._validates(step) and not done:
            self.validations.add(self.validate(step))
            self.validations.flush()

    def _validates(self, step: int) -> bool:
        return step % self.section.validate_every == 0 or step == self.section.steps

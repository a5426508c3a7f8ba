"""The training loop, which can resume: steps, checkpoints, validations, and roll-backs."""

from collections.abc import Callable

from capo.engine.events import TrainingStep, emit
from capo.engine.prefetch import prefetched
from capo.engine.progress import Bar, progress, say
from capo.engine.ranks import Group
from capo.recipe import TrainSection
from capo.training.batches import Batch
from capo.training.checkpoint import Checkpoints
from capo.training.guards import DivergenceGuard, TrainingDiverged, overoptimization, reason_to_end
from capo.training.log import Records, Row, best_row
from capo.training.rollback import LIMIT
from capo.training.trainer import StepOutcome, Trainer

Validate = Callable[[int, int], Row]
"""Maps a step and the number of roll-backs to the step's row of `validation.jsonl`; all processes call it."""


class Loop:
    """A training run; `run` ends with the policy of the last step."""

    def __init__(
        self,
        section: TrainSection,
        trainer: Trainer,
        make_batch: Callable[[int], Batch],
        checkpoints: Checkpoints,
        records: Records,
        validate: Validate | None,
    ) -> None:
        """Train without validation if `validate` is None; `make_batch` is called from another thread."""
        self._section = section
        self._trainer = trainer
        self._make_batch = make_batch
        self._checkpoints = checkpoints
        self._records = records
        self._validate_step = validate
        self.ended: str | None = None
        """Why training ended before its last step; None if it did not."""
        self._unread: list[StepOutcome] = []
        """Steps that the device may still be computing."""
        self._guard = DivergenceGuard(section, ())
        self._warned = False

    def run(self, start: int) -> int:
        """Continue from the state of step `start` (0: the base model); return the last step.

        Raises `TrainingDiverged` if training diverges and `train.on_divergence` does not let it continue, or
        if it has rolled back too often.
        """
        with progress("train", self._section.steps, "steps") as bar:
            while True:
                try:
                    return self._train(start, bar)
                except TrainingDiverged as error:
                    start = self._roll_back(error)

    def load_best(self, last: int) -> tuple[int, Row | None]:
        """Load the step with the best validation; return it and its row.

        Without validations that is the `last` step, whose state is the current one, and no row.
        """
        best = best_row(self._records.validations.rows)
        step = last if best is None else int(best["step"])
        if step != last:
            self._checkpoints.load(step)
        return step, best

    def prune(self, *, over: bool) -> None:
        """Remove the checkpoints that are neither among the newest nor the best.

        Until training is `over` it may return to one of the newest, and then needs the best up to there.
        """
        returns = self._section.on_divergence == "roll-back" and not over

        def best(step: int) -> int | None:
            rows = self._records.validations.rows
            row = best_row([row for row in rows if row["step"] <= step] if returns else rows)
            return None if row is None else int(row["step"])

        self._checkpoints.prune(self._section.keep_checkpoints, best)

    def _train(self, start: int, bar: Bar) -> int:
        self._records.metrics.rewind(start)
        self._records.validations.rewind(start)
        self._unread.clear()
        self._guard = DivergenceGuard(self._section, self._records.metrics.rows)
        bar.advance(start - bar.done, resumed=True)
        self._validate(start)
        with prefetched(self._make_batch, range(start + 1, self._section.steps + 1)) as batches:
            for step in range(start + 1, self._section.steps + 1):
                if self.ended is not None:
                    return step - 1
                halvings = self._records.roll_backs.halvings(step)
                self._unread.append(self._trainer.step(step, next(batches), halvings))
                if self._logs(step):
                    self._read(bar)
                bar.advance()
                self._checkpoints.check()
                # Save first: the validation may take long.
                self._save(step, bar)
                self._validate(step)
        return self._section.steps

    def _read(self, bar: Bar) -> None:
        """Wait for the steps so far and log those that are due."""
        unread, self._unread = self._unread, []
        for outcome in unread:
            row = outcome.row()
            if self._logs(row["step"]):
                self._records.metrics.add(row)
                bar.note(f"loss {row['loss']:.4g}")
                emit(TrainingStep(row["step"], {name: v for name, v in row.items() if name != "step"}))
                self._check_divergence(row)

    def _check_divergence(self, row: Row) -> None:
        try:
            self._guard.check(row)
        except TrainingDiverged as error:
            if self._section.on_divergence != "warn":
                raise
            if not self._warned:
                say(f"train: {error}; continuing because train.on_divergence is warn")
            self._warned = True

    def _save(self, step: int, bar: Bar) -> None:
        if step % self._section.checkpoint_every == 0 or self._validates(step):
            self._read(bar)
            # Flush first: rows ahead of the checkpoint are dropped on resume, missing rows would be lost.
            self._records.metrics.flush()
            self._checkpoints.save(step)
            self.prune(over=False)

    def _validate(self, step: int) -> None:
        if self._validate_step is None or not self._validates(step):
            return
        validations = self._records.validations
        if not any(row["step"] == step for row in validations.rows):
            validations.add(self._validation_row(self._validate_step, step))
            validations.flush()
            if alarm := overoptimization(validations.rows):
                say(f"train: {alarm}")
        if step < self._section.steps and (reason := reason_to_end(validations.rows, self._section)):
            say(f"train: ends at step {step}: {reason}")
            self.ended = reason

    def _validation_row(self, validate: Validate, step: int) -> Row:
        trainer, roll_backs = self._trainer, len(self._records.roll_backs)
        with trainer.averaged():
            return validate(step, roll_backs)

    def _roll_back(self, error: TrainingDiverged) -> int:
        """Load the newest healthy state and return its step, or raise `error` again."""
        records = self._records
        records.metrics.flush()
        if self._section.on_divergence != "roll-back":
            raise error
        if len(records.roll_backs) == LIMIT:
            raise TrainingDiverged(f"{error} (after {LIMIT} roll-backs)") from error
        healthy = max(filter(self._healthy, Group().broadcast(self._checkpoints.steps)), default=0)
        say(f"train: {error}; rolling back to step {healthy} at half the learning rate")
        # Before the roll-back is recorded: if killed in between, the resumed run decides the same.
        self._checkpoints.forget_after(healthy)
        records.roll_backs.add(healthy, str(error), records.metrics.rows, records.validations.rows)
        self._checkpoints.load(healthy)
        return healthy

    def _healthy(self, step: int) -> bool:
        return self._guard.calm(step) and not self._records.roll_backs.tried(step)

    def _logs(self, step: int) -> bool:
        return step % self._section.log_every == 0 or self._validates(step)

    def _validates(self, step: int) -> bool:
        return step % self._section.validate_every == 0 or step == self._section.steps

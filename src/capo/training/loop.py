"""The training loop: steps, checkpoints and validations, from wherever a run stopped."""

from collections.abc import Callable
from dataclasses import dataclass, field

from capo.engine.prefetch import prefetched
from capo.engine.progress import Bar, progress, say
from capo.engine.ranks import Group
from capo.recipe import TrainSection
from capo.training.batches import Batch
from capo.training.checkpoint import Checkpoints
from capo.training.guards import TrainingDiverged, Watch, ends, overoptimization
from capo.training.log import Log, Row, best_row
from capo.training.rollback import LIMIT, RollBacks
from capo.training.sampling_policy import led
from capo.training.trainer import Outcome, Trainer


@dataclass
class Loop:
    """All that takes part in training; `run` ends with the policy of the last step."""

    section: TrainSection
    trainer: Trainer
    make_batch: Callable[[int], Batch]
    """The batch of a step; called from another thread."""
    checkpoints: Checkpoints
    metrics: Log
    validations: Log
    roll_backs: RollBacks
    validate: Callable[[int, int], Row] | None
    """From a step and the number of roll-backs to its row of `validation.jsonl`; None: no validation."""
    ended: str | None = None
    """Why training ended before its last step; None when it did not."""
    _unread: list[Outcome] = field(default_factory=list)
    """Steps that the device may still be at."""
    _warned: bool = False

    def run(self, start: int) -> int:
        """Go on from the state of step `start` (0: the base model); returns the last step.

        Raises `TrainingDiverged` when it does and is neither to go on nor to roll back, or has too often.
        """
        with progress("train", self.section.steps, "steps") as bar:
            while True:
                try:
                    return self._train(start, bar)
                except TrainingDiverged as error:
                    start = self._roll_back(error)

    def best_step(self, last: int) -> int:
        """The step of the best validation; without validations the `last` one."""
        best = best_row(self.validations.rows)
        return last if best is None else int(best["step"])

    def prune(self, *, over: bool) -> None:
        """Remove the checkpoints that are neither among the newest nor the best.

        Until training is `over` it may go back to one of the newest, and then needs the best up to there.
        """
        goes_back = self.section.on_divergence == "roll-back" and not over

        def best(step: int) -> int | None:
            rows = self.validations.rows
            row = best_row([row for row in rows if row["step"] <= step] if goes_back else rows)
            return None if row is None else int(row["step"])

        self.checkpoints.prune(self.section.keep_checkpoints, best)

    def _train(self, start: int, bar: Bar) -> int:
        self.metrics.rewind(start)
        self.validations.rewind(start)
        self._unread.clear()
        self._watch = Watch(self.section, self.metrics.rows)
        bar.advance(start - bar.done, resumed=True)
        self._validate(start)
        with prefetched(self.make_batch, range(start + 1, self.section.steps + 1)) as batches:
            for step in range(start + 1, self.section.steps + 1):
                if self.ended is not None:
                    return step - 1
                outcome = self.trainer.step(step, next(batches), self.roll_backs.halvings(step))
                self._unread.append(outcome)
                if self._logs(step):
                    self._read(bar)
                bar.advance()
                # Before the validation, which may take long: what was learned is safe.
                self._save(step, bar)
                self._validate(step)
        return self.section.steps

    def _read(self, bar: Bar) -> None:
        """Wait for the steps so far, and log those that are to be."""
        unread, self._unread = self._unread, []
        for outcome in unread:
            row = outcome.row()
            if self._logs(row["step"]):
                self.metrics.add(row)
                bar.note(f"loss {row['loss']:.4f}")
                self._look(row)

    def _look(self, row: Row) -> None:
        """Watch for divergence; where it is only to be told, it is told once."""
        try:
            self._watch.see(row)
        except TrainingDiverged as error:
            if self.section.on_divergence != "warn":
                raise
            if not self._warned:
                say(f"train: {error}; going on, as train.on_divergence says")
            self._warned = True

    def _save(self, step: int, bar: Bar) -> None:
        if step % self.section.checkpoint_every == 0 or self._validates(step):
            self._read(bar)
            self.metrics.flush()  # first: rows ahead of the checkpoint are rewound, missing ones lost
            self.checkpoints.save(step)
            self.prune(over=False)

    def _validate(self, step: int) -> None:
        if self.validate is None or not self._validates(step):
            return
        if not any(row["step"] == step for row in self.validations.rows):
            with self.trainer.averaged():
                self.validations.add(self._validated(step))
            self.validations.flush()
            if alarm := overoptimization(self.validations.rows):
                say(f"train: {alarm}")
        if step < self.section.steps and (reason := ends(self.validations.rows, self.section)):
            say(f"train: ends at step {step}: {reason}")
            self.ended = reason

    def _validated(self, step: int) -> Row:
        trainer, validate = self.trainer, self.validate
        assert validate is not None
        return led(Group(), trainer.family, trainer.policy, lambda: validate(step, len(self.roll_backs)))

    def _roll_back(self, error: TrainingDiverged) -> int:
        """Take over the newest healthy state; returns its step, or raises `error` again."""
        self.metrics.flush()
        if self.section.on_divergence != "roll-back":
            raise error
        if len(self.roll_backs) == LIMIT:
            raise TrainingDiverged(f"{error} (after {LIMIT} roll-backs)") from error
        healthy = max(filter(self._healthy, Group().broadcast(self.checkpoints.steps)), default=0)
        say(f"train: {error}; back to step {healthy}, at half the learning rate")
        # Before it is written down: killed in between, the run comes here again and decides the same.
        self.checkpoints.forget_after(healthy)
        self.roll_backs.add(healthy, str(error), self.metrics.rows, self.validations.rows)
        self.checkpoints.load(healthy)
        return healthy

    def _healthy(self, step: int) -> bool:
        return self._watch.calm(step) and not self.roll_backs.tried(step)

    def _logs(self, step: int) -> bool:
        return step % self.section.log_every == 0 or self._validates(step)

    def _validates(self, step: int) -> bool:
        return step % self.section.validate_every == 0 or step == self.section.steps

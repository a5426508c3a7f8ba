"""The votes that a server takes: `votes/served.jsonl`, to which only whole lines are added.

A vote is saved once its line is on disk. A line that a crash cut off was never acknowledged; the next server
removes it.
"""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capo.engine.progress import say
from capo.people.human_study import VOTES, HumanStudy
from capo.people.votes import SERVED, Ballot, VotesError, read_vote_lines, vote_line
from capo.store import atomic
from capo.store.errors import explain_os_errors
from capo.store.lock import hold_lock

MOST_RATERS = 2000
"""A limit on what the file can grow to, should the address of a study become known."""


class VoteLog:
    """The served votes of a study. Several threads may use it."""

    def __init__(self, path: Path, study: HumanStudy, handle: int) -> None:
        self._study, self._handle = study, handle
        self._adding = threading.Lock()
        self._lines: dict[tuple[str, str, str], bytes] = {}
        self._raters: set[str] = set()
        for vote in read_vote_lines(path, study):
            self._remember(vote.rater, vote.key, vote_line(study, vote.rater, vote, vote.source))

    def add(self, ballot: Ballot) -> int:
        """Save the votes of a ballot that are not saved yet; returns their number once they are on disk.

        Raises `VotesError` if the rater has another vote on one of the pairs, or if there are too many
        raters, and `OSError` if the votes cannot be written; then none of them is saved.
        """
        with self._adding:
            lines = self._new_lines(ballot)
            if ballot.rater not in self._raters and len(self._raters) >= MOST_RATERS:
                raise VotesError(f"this study has votes of {MOST_RATERS} raters and takes no more")
            if lines:
                self._append("".join(lines.values()).encode("ascii"))
            for key, line in lines.items():
                self._remember(ballot.rater, key, line)
            return len(lines)

    def _new_lines(self, ballot: Ballot) -> dict[tuple[str, str], str]:
        lines = {}
        for vote in ballot.votes:
            line = vote_line(self._study, ballot.rater, vote)
            known = self._lines.get((ballot.rater, *vote.key))
            if known is None:
                lines[vote.key] = line
            elif known != _short(line):
                raise VotesError(f"rater {ballot.rater} has another vote on {vote.pair} ({vote.question})")
        return lines

    def _append(self, data: bytes) -> None:
        """Write to the end of the file and wait until it is on disk; undone if that fails."""
        before = os.fstat(self._handle).st_size
        try:
            atomic.failpoint()
            written = 0
            while written < len(data):
                written += os.write(self._handle, data[written:])
            atomic.failpoint()
            os.fsync(self._handle)
            atomic.failpoint()
        except OSError:
            os.ftruncate(self._handle, before)
            raise

    def _remember(self, rater: str, key: tuple[str, str], line: str) -> None:
        self._lines[rater, *key] = _short(line)
        self._raters.add(rater)


@contextmanager
def open_vote_log(folder: Path, study: HumanStudy) -> Iterator[VoteLog]:
    """Open the served votes of the study in `folder`, as their only writer.

    Raises `WorkspaceError` if another server has them open, and `VotesError` if the file is damaged.
    """
    path = folder / VOTES / SERVED
    with explain_os_errors(path):
        path.parent.mkdir(exist_ok=True)
    with hold_lock(path.parent / ".lock", instead="stop the other server"):
        with explain_os_errors(path):
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(path, flags, 0o644)
        try:
            _remove_torn_line(path, handle)
            atomic.flush(path.parent)
            yield VoteLog(path, study, handle)
        finally:
            os.close(handle)


def _remove_torn_line(path: Path, handle: int) -> None:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        say(f"{path}: removed the last line, which was not complete and had not been acknowledged")
        os.ftruncate(handle, whole)
        os.fsync(handle)


def _short(line: str) -> bytes:
    return hashlib.blake2b(line.encode("ascii"), digest_size=8).digest()

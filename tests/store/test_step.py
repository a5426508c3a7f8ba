"""Several pieces of a stage's work, some of which other commands or the main process must do."""

import pytest

from capo.engine.part_executor import ShardsLeft
from capo.store.errors import LeftToMain
from capo.store.step import make_all


def raising(error, done):
    def work():
        done.append(error)
        raise error

    return work


def test_all_pieces_are_made_and_what_is_left_is_added_up():
    done = []
    works = [
        raising(error, done) for error in (LeftToMain("the main process"), ShardsLeft(1, 2), ShardsLeft(3, 4))
    ]
    with pytest.raises(ShardsLeft) as left:
        make_all(works)
    assert (left.value.made, left.value.left, len(done)) == (4, 6, 3)


def test_a_piece_that_is_left_to_the_main_process_is_not_taken_for_done():
    done = []
    with pytest.raises(LeftToMain):
        make_all([raising(LeftToMain("the main process"), done), lambda: done.append("made")])
    assert len(done) == 2
    make_all([lambda: done.append("made")])

"""Where a run's first row goes: over, continued, back to a mark, back to a step; and what a checkpoint keeps."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zstore
from zstore.errors import BehindCheckpoint
from zstore.train import Recorder
from zstore.train.start import EMPTY


def record(recorder: Recorder, *steps: int, epoch: int = 0) -> None:
    """Two rows a step."""
    for step in steps:
        recorder.append([2 * step, 2 * step + 1], np.full((2, 3), step, np.float32), epoch=epoch, step=step)


def steps_of(url: str, **version: Any) -> list[int]:
    with zstore.Reader(url, **version) as reader:
        return np.asarray(reader.field("step"))[::2].tolist()


def run(url: str, *steps: int, **options: Any) -> None:
    with Recorder(url, **options) as recorder:
        record(recorder, *steps)


def test_a_run_starts_over_and_the_earlier_one_stays_readable(url: str) -> None:
    run(url, 0, 1, 2)
    with zstore.Reader(url) as reader:
        first = reader.version
    for _ in range(2):
        with pytest.warns(UserWarning, match="rolled back .* rows are cut"):
            run(url, 5)
        assert steps_of(url) == [5]
    assert steps_of(url, version=first) == [0, 1, 2]
    run(url, 6, start="continue")
    assert steps_of(url) == [5, 6]


def test_nothing_recorded_changes_nothing(url: str) -> None:
    run(url, 0)
    with Recorder(url):
        pass
    assert steps_of(url) == [0]
    with Recorder(url + "2") as recorder:
        assert recorder.state_dict() == EMPTY
    assert not Path(url + "2").exists()


def test_the_first_row_goes_back_to_the_mark(url: str) -> None:
    with Recorder(url) as recorder:
        record(recorder, 0, 1)
        mark = recorder.state_dict()
        record(recorder, 2)
    assert all(type(value) in (str, int) for value in mark.values()) and mark.keys() == EMPTY.keys()
    with Recorder(url) as recorder:
        recorder.load_state_dict(mark)
        assert steps_of(url) == [0, 1, 2]
        assert recorder.state_dict() == mark            # a template; nothing is touched
        with pytest.warns(UserWarning, match="rolled back"):
            record(recorder, 7)
        with pytest.raises(ValueError, match="before the first row"):
            recorder.load_state_dict(mark)
    assert steps_of(url) == [0, 1, 7]


def test_a_mark_without_a_row_is_gone_back_to_at_close_alone(url: str) -> None:
    with Recorder(url) as recorder:
        record(recorder, 0)
        mark = recorder.state_dict()
        record(recorder, 1)
    evaluation = Recorder(url)
    evaluation.load_state_dict(mark)
    del evaluation
    assert steps_of(url) == [0, 1]
    recorder = Recorder(url)
    recorder.load_state_dict(mark)
    with pytest.warns(UserWarning, match="rolled back"):
        recorder.close()
    assert steps_of(url) == [0]


def test_the_mark_of_a_run_that_had_no_row_goes_back_to_none(url: str) -> None:
    run(url, 0, 1)
    with Recorder(url, start="continue") as recorder:
        recorder.load_state_dict(EMPTY)
        with pytest.warns(UserWarning, match="rolled back"):
            record(recorder, 3)
    assert steps_of(url) == [3]


def test_a_store_behind_its_checkpoint_is_told_once_with_what_is_missing(url: str, tmp_path: Path) -> None:
    with Recorder(url) as recorder:
        record(recorder, 0)
        mark = recorder.state_dict()
    ahead = {**mark, "version": mark["version"] + 3}        # head is one further
    with pytest.raises(BehindCheckpoint, match="commits are missing") as told, Recorder(url) as recorder:
        recorder.load_state_dict(ahead)
        record(recorder, 1)
    assert told.value.__context__ is None               # the close behind it said nothing more
    with pytest.raises(BehindCheckpoint, match="no store at"), Recorder(str(tmp_path / "none")) as recorder:
        recorder.load_state_dict(mark)
        record(recorder, 1)
    run(other := str(tmp_path / "other"), 0)
    with pytest.raises(ValueError, match=r"the mark is of store .* but .* is store"), Recorder(other) as recorder:
        recorder.load_state_dict(mark)
        record(recorder, 1)
    assert steps_of(url) == [0] and steps_of(other) == [0]
    with pytest.raises(TypeError, match=r"a recorder's mark holds store_id.*give what state_dict\(\) gave"):
        Recorder(url).load_state_dict({"version": 1})


# It says that it is alone, as is meant here.
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint_saves_and_loads_it(url: str, tmp_path: Path) -> None:
    from torch.distributed import checkpoint as dcp

    with Recorder(url) as recorder:
        record(recorder, 0)
        dcp.save({"zstore": recorder}, checkpoint_id=tmp_path / "kept", no_dist=True)
        record(recorder, 1)
    assert steps_of(url) == [0, 1]
    with Recorder(url) as recorder:
        dcp.load({"zstore": recorder}, checkpoint_id=tmp_path / "kept", no_dist=True)
        with pytest.warns(UserWarning, match="rolled back"):
            record(recorder, 8)
        assert torch.load(_saved(tmp_path, recorder.state_dict()), weights_only=True)["version"] > 0
    assert steps_of(url) == [0, 8]


def _saved(folder: Path, state: Any) -> Path:
    torch.save(state, folder / "plain.pt")
    return folder / "plain.pt"


def test_a_writer_that_was_given_keeps_its_place(url: str) -> None:
    with Recorder(url) as recorder:
        record(recorder, 0)
        mark = recorder.state_dict()
        record(recorder, 1)
    with pytest.warns(UserWarning, match="rolled back"):
        writer = zstore.Writer(url, at=mark)
    with Recorder(writer) as recorder:                  # which would start over, had the writer not said where
        record(recorder, 4)
        kept = recorder.state_dict()
    writer.append([90, 91], np.zeros((2, 3), np.float32), step=9)        # open still
    writer.close()
    assert steps_of(url) == [0, 4, 9] and steps_of(url, version=kept["version"]) == [0, 4]

    with zstore.Writer(url) as writer:
        writer.append([70, 71], np.zeros((2, 3), np.float32), step=7)
        with Recorder(writer) as recorder:
            assert recorder.state_dict()["version"] > kept["version"]
            record(recorder, 8)
    assert steps_of(url) == [0, 4, 9, 7, 8]
    with zstore.Writer(url) as writer, Recorder(writer) as recorder, pytest.warns(UserWarning, match="rolled back"):
        record(recorder, 1)
    assert steps_of(url) == [1]
    with zstore.Writer(url) as writer, pytest.raises(ValueError, match="codec: options of the Writer"):
        Recorder(writer, codec="raw")


def test_a_step_that_a_version_ends_at(url: str) -> None:
    with Recorder(url) as recorder:
        record(recorder, 0, 1)
        recorder.commit()
        record(recorder, 2)
    with Recorder(url) as recorder:
        with pytest.warns(UserWarning, match="2 of 6 rows are later than step 1"):
            recorder.load_step(1)
        assert steps_of(url) == [0, 1, 2]
        with pytest.warns(UserWarning, match="rolled back"):
            record(recorder, 2)
    assert steps_of(url) == [0, 1, 2]


def test_a_step_in_the_middle_of_a_commit(url: str) -> None:
    run(url, 0, 1, 2, 3)
    with Recorder(url) as recorder:
        with pytest.warns(UserWarning, match="4 of 8 rows are later than step 1"):
            recorder.load_step(1)
        assert steps_of(url) == [0, 1, 2, 3]                # nothing is touched before the first row
        with pytest.warns(UserWarning, match="4 rows less"):
            record(recorder, 2)
    assert steps_of(url) == [0, 1, 2]
    with zstore.Writer(url) as writer, Recorder(writer) as recorder, pytest.warns(UserWarning, match="later than step"), \
            pytest.raises(BehindCheckpoint, match="give the recorder the URL"):
        recorder.load_step(0)


def test_a_branch_that_was_cut_is_no_way_back(url: str) -> None:
    """An older version has as many rows as are wanted, but others."""
    with Recorder(url) as recorder:
        record(recorder, 0, 10)
        recorder.commit()
        record(recorder, 11)
    with pytest.warns(UserWarning, match="rolled back"):
        run(url, 0, 1, 12)
    with Recorder(url) as recorder, pytest.warns(UserWarning):
        recorder.load_step(5)
        record(recorder, 2)
    assert steps_of(url) == [0, 1, 2]


def test_rows_that_a_step_can_not_tell_apart(url: str) -> None:
    with Recorder(url) as recorder:
        for step in range(3):
            recorder.append([1, 2], np.zeros((2, 3), np.float32), step=step)
    with Recorder(url) as recorder, pytest.warns(UserWarning), \
            pytest.raises(BehindCheckpoint, match="4 of the rows up to there were committed together with later ones"):
        recorder.load_step(1)


def test_a_step_that_the_store_never_reached(url: str, tmp_path: Path) -> None:
    run(url, 0, 1, 2)
    recorder = Recorder(url)
    with pytest.raises(BehindCheckpoint, match="end at step 2: those of 38 steps are missing"):
        recorder.load_step(40)
    recorder.load_step(3)                               # counted from one
    record(recorder, 4)
    recorder.close()
    assert steps_of(url) == [0, 1, 2, 4]
    with Recorder(str(tmp_path / "none")) as recorder, pytest.warns(UserWarning, match="so rows begin behind step 5"):
        recorder.load_step(5)
    with zstore.Writer(without := str(tmp_path / "without")) as writer:
        writer.append([1], np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="rows carry no `step` to go by"):
        Recorder(without).load_step(1)


def test_a_recorder_is_not_pickled(url: str) -> None:
    with pytest.raises(TypeError, match="state_dict"):
        pickle.dumps(Recorder(url))

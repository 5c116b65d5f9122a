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
    with pytest.raises(BehindCheckpoint, match=r"names version \d+ \(commit \w+\), but there is no store at"), \
            Recorder(str(tmp_path / "none")) as recorder:
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


WRONG = [  # as the store holds int64 ids, 3 numbers a vector, and a step
    lambda recorder: recorder.append([1], np.ones((1, 5), np.float32), step=1),
    lambda recorder: recorder.append(["a"], np.ones((1, 3), np.float32), step=1),
    lambda recorder: recorder.append([1], np.ones((1, 3), np.float32), step=1, loss=1.0),
    lambda recorder: recorder.append([1], np.ones((1, 3), np.float32)),
]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("on_error", ["raise", "warn"])
@pytest.mark.parametrize("back", ["over", "mark", "step", "given"])
def test_a_first_batch_that_is_refused_cuts_nothing(url: str, back: str, on_error: Any, wrong: Any) -> None:
    with Recorder(url) as recorder:
        record(recorder, 0)
        mark = recorder.state_dict()
        record(recorder, 1, 2)
    writer = zstore.Writer(url) if back == "given" else None
    recorder = Recorder(writer or url, on_error=on_error)
    if back == "mark":
        recorder.load_state_dict(mark)
    elif back == "step":                                    # rows of step 2 must be deleted
        with pytest.warns(UserWarning, match="2 of 6 rows are later"):
            recorder.load_step(1)
    with pytest.raises(ValueError, match=r"the store|this store"):
        wrong(recorder)
    assert steps_of(url) == [0, 1, 2]
    with pytest.warns(UserWarning, match="rolled back|2 rows less"):
        record(recorder, 3)
        recorder.close()
    if writer is not None:
        writer.close()
    assert steps_of(url) == {"mark": [0, 3], "step": [0, 1, 3]}.get(back, [3])


def test_a_batch_is_judged_by_the_fields_that_the_rollback_leaves(url: str) -> None:
    run(url, 0)
    with zstore.Writer(url) as writer:
        writer.add_field("loss", np.ones(2))
    with pytest.raises(ValueError, match="no field 'loss'"), Recorder(url) as recorder:
        recorder.append([1], np.ones((1, 3), np.float32), step=1, loss=1.0)
    assert steps_of(url) == [0]
    with pytest.warns(UserWarning, match="rolled back"):
        run(url, 1)
    assert steps_of(url) == [1]


def test_an_epoch_before_the_first_row_is_not_the_earlier_runs(url: str) -> None:
    def record_whole(recorder: Recorder, epoch: int) -> None:
        recorder.append([0, 1], np.zeros((2, 3), np.float32), epoch=epoch, step=epoch)

    with Recorder(url) as recorder:
        record_whole(recorder, 0)
        mark = recorder.state_dict()
        record_whole(recorder, 1)
    with Recorder(url) as recorder, pytest.warns(UserWarning, match=r"2 missing \(0, 1\)"):
        assert not recorder.end_epoch(0, expected=2).exact
    recorder = Recorder(url)
    recorder.load_state_dict(mark)
    assert recorder.end_epoch(0, expected=2).exact
    with pytest.warns(UserWarning, match="2 missing"):
        assert not recorder.end_epoch(1, expected=2).exact
    assert Recorder(url, start="continue").end_epoch(1, expected=2).exact
    with pytest.warns(UserWarning, match="2 missing"):
        assert not Recorder(url + "2").end_epoch(0, expected=2).exact
    with pytest.warns(UserWarning, match="rolled back"):
        writer = zstore.Writer(url, at=mark)                # which said where
    with writer:
        assert Recorder(writer).end_epoch(0, expected=2).exact


def test_a_disk_that_refuses_the_first_mark_of_a_given_writer(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(url, 0)
    with zstore.Reader(url) as reader:
        mark = reader.history[-1].mark
    with zstore.Writer(url, at=mark) as writer, Recorder(writer, on_error="warn") as recorder, \
            monkeypatch.context() as patch, pytest.warns(UserWarning, match="No space left"):
        patch.setattr(zstore.Writer, "_commit", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        record(recorder, 1)
        kept = recorder.state_dict()
        patch.undo()
    with Recorder(url) as recorder, pytest.warns(UserWarning, match="rolled back"):
        recorder.load_state_dict(kept)
        record(recorder, 2)
    assert steps_of(url) == [0, 2]


def test_a_writer_of_a_shared_session_starts_nothing_over(url: str) -> None:
    run(url, 0)
    with zstore.Writer(url, session="launch") as writer:
        with Recorder(writer) as recorder, pytest.raises(zstore.errors.Conflict, match=r'Recorder\(writer, start="continue"\)'):
            record(recorder, 1)
        with Recorder(writer, start="continue") as recorder:
            record(recorder, 1)
    assert steps_of(url) == [0, 1]


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

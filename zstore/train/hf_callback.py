"""The recorder's place in a Hugging Face training: epochs, checkpoints, the way back."""

from __future__ import annotations

from typing import Any

from zstore.errors import MissingExtra
from zstore.notices import warn
from zstore.train.recorder import Recorder
from zstore.train.start import check_store, checked_mark
from zstore.view_coverage import expected_ids

try:
    from transformers import TrainerCallback
    from transformers.trainer_utils import has_length
except ImportError:
    raise MissingExtra("attach() needs transformers: pip install 'zstore[hf]'") from None

# In `stateful_callbacks` of a checkpoint's trainer_state.json. No save writes that file before the others, and no resume does
# without it, so that a checkpoint from which a training can go on has the mark.
MARK = "zstore"


class RecorderCallback(TrainerCallback):    # type: ignore[misc]
    """No ``ExportableState``: the Trainer would ask for the mark before training, and build this anew when it resumes."""

    def __init__(self, recorder: Recorder, expected: Any) -> None:
        self.recorder, self.expected = recorder, expected
        self.epoch = -1             # of the epoch that runs, and counted here: `state.epoch` moves at a step's end only
        self.step = 0               # of the newest recorded batch
        self._compared = False      # what is expected with what comes

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.recorder._began:
            raise ValueError(f"{self.recorder.url}: this recorder has seen a training begin already, and a second train() "
                             "would record its epochs again; close it, and attach(trainer, Recorder(...)) anew before each "
                             "train()")
        self.epoch = int(state.epoch or 0) - 1
        if state.global_step > 0:
            self._resume(args, state, has_length(kwargs["train_dataloader"]))
        self.recorder._began = True

    def _resume(self, args: Any, state: Any, counted: bool) -> None:
        mark = state.stateful_callbacks.get(MARK)
        if mark is None:
            self.recorder.load_step(state.global_step)
        else:
            check_store(self.recorder.url, checked_mark(mark), self.recorder._storage_options())
            self.recorder.load_state_dict(mark)
        if counted:
            return
        # Its state.epoch is worth nothing for a stream: a share of max_steps, and passes are counted anew in each process.
        epoch = self.epoch + 1 if mark is None else mark.get("epoch", self.epoch + 1)
        if state.global_step >= state.max_steps:        # it begins a pass, and sees behind the first step that it is done
            self.epoch = epoch
            return
        self.epoch = epoch - 1
        if epoch >= 1 and not args.ignore_data_skip:
            warn(f"{self.recorder.url}: the training data has no length, so the Trainer can't go on in the middle of a pass "
                 f"behind the first: epoch {epoch} stays as far as it came, and the next pass is epoch {epoch + 1}")

    def first(self, ids: Any) -> None:
        """Before a batch is recorded. ValueError or TypeError, before any is, where what is expected can't be compared with
        its ids."""
        if not self._compared:
            self.expected = expected_ids(self.expected, isinstance(ids[0], str))
            self._compared = True

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epoch += 1

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.step == 0:
            return
        whole = state.epoch == self.epoch + 1       # a training may stop in the middle
        self.recorder.end_epoch(self.epoch, expected=self.expected if whole else None)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.recorder.commit()

    def mark(self, state: Any) -> None:
        """Commit, and lay the mark where the checkpoint that is about to be saved takes it along."""
        mark = self.recorder.state_dict()
        if self.step > state.global_step:
            # A save in the middle of a step (on SIGTERM): the mark would keep that step's rows, and the resume does it again.
            state.stateful_callbacks.pop(MARK, None)
        else:
            state.stateful_callbacks[MARK] = {**mark, "epoch": self.epoch}

"""The recorder's place in a Hugging Face training: epochs, checkpoints, the way back."""

from __future__ import annotations

from typing import Any

from zstore.errors import MissingExtra
from zstore.train.recorder import Recorder

try:
    from transformers import TrainerCallback
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
        self._began = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._began:
            raise ValueError(f"{self.recorder.url}: this recorder has seen a training begin already, and a second train() "
                             "would record its epochs again; close it, and attach(trainer, Recorder(...)) anew before each "
                             "train()")
        self._began = True
        self.epoch = int(state.epoch or 0) - 1
        if state.global_step == 0:
            return
        mark = state.stateful_callbacks.get(MARK)
        if mark is None:
            self.recorder.load_step(state.global_step)
        else:
            self.recorder.load_state_dict(mark)

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
            state.stateful_callbacks[MARK] = mark

"""``attach(trainer, recorder)``: recording from a Hugging Face ``Trainer``, or one of sentence-transformers."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np

from zstore.train.capture import Select
from zstore.train.hf_callback import RecorderCallback
from zstore.train.hf_collator import KEY, IdTaking
from zstore.train.recorder import Recorder

LOADERS = ("get_train_dataloader", "get_eval_dataloader", "get_test_dataloader")
RESERVED = {"vectors", "ids", "epoch", "step"}


def attach(trainer: Any, recorder: Recorder, module: Any = None, ids: str | None = "id", *,
           field: str | Sequence[str] | None = None, select: Select | None = None, expected: Any = "dataset") -> Recorder:
    """Record every training batch of ``trainer``: call it between building the trainer and ``train()``. Gives ``recorder``.

    Rows carry the epoch and the optimizer step in which they were seen. Evaluation gives no row. Each checkpoint commits
    first and holds the store's mark in its ``trainer_state.json``; ``train(resume_from_checkpoint=...)`` rolls the store back
    to it, so that a resumed training has the rows of one that never stopped. A checkpoint without a mark, from before
    recording or from the middle of a step (``enable_jit_checkpoint``), falls back to the rows' steps, and says so. The best
    model's return at the end, and rotation, roll nothing back.

    Parameters
    ----------
    module : torch.nn.Module, optional
        What to watch, as ``recorder.watch`` does. Default: what is watched already; of a sentence-transformers model the
        last module, which gives the embeddings.
    ids : str or None
        The column, or key of a sample, that holds the ids. They ride beside the model's inputs, whatever
        ``remove_unused_columns`` says, and are not trained on. None numbers the rows of a ``datasets.Dataset`` as they stand.
    field : str or list of str, optional
        Of the watched module. Default: "vectors"; where a sentence-transformers data set has several columns of texts, the
        first is "vectors" and the others have their own names.
    select : callable, optional
        From the module's output to the tensor.
    expected : "dataset", ids, int or None
        What each whole epoch is compared with at its end (``recorder.end_epoch``): the ids of the training data, where a
        column gives them and ``dataloader_drop_last`` is off; yours; or nothing but what came twice (None). Ids of the wrong
        kind are told at the first batch.

    Exact to the bit as far as the Trainer itself is. It is not: where a collator draws random numbers (masking) and a
    resume begins in mid-epoch, because the Trainer restores them after it has fetched the first batches (save at epoch ends,
    or mask in the data set); with ``ignore_data_skip=True``, which trains on the epoch's first samples again (coverage names
    them); where batch size or accumulation changed; with data that has no length, once it has begun a second pass: the resume
    begins the next pass instead, as the next epoch, and says so. A checkpoint folder that a kill left half-written (it has no
    ``trainer_state.json``) is still the one that ``resume_from_checkpoint=True`` takes, and fails on: remove it, or pass the
    path of the one before. Raises ValueError for settings under which rows could not be right.
    """
    _check(trainer)
    if ids is None:
        _check_texts(trainer)
        ids = _number(trainer)
    texts = _texts(trainer, ids)
    if module is None and not recorder._watched:
        module = _embedding_module(trainer)
    if module is not None:
        recorder.watch(module, field=_fields(texts) if field is None else field, select=select)
    # What an earlier attach() wrapped stays, and does nothing without its callback.
    trainer.remove_callback(RecorderCallback)
    callback = RecorderCallback(recorder, _expected(trainer, ids) if isinstance(expected, str) else expected)
    trainer.add_callback(callback)
    for name in LOADERS:
        _wrap_loader(trainer, callback, name, ids)
    _wrap_loss(trainer, callback)
    _wrap_saves(trainer, callback)
    return recorder


def _check(trainer: Any) -> None:
    args = trainer.args
    if args.world_size > 1 or args.n_gpu > 1:
        count = max(args.world_size, args.n_gpu)
        raise ValueError(f"attach() records one process on one device, and this training has {count}; start one process, with "
                         "one GPU in CUDA_VISIBLE_DEVICES")
    if args.auto_find_batch_size:
        raise ValueError("auto_find_batch_size=True begins the training anew inside train(), behind rows that are recorded; "
                         "set per_device_train_batch_size to what it found, and auto_find_batch_size=False")
    if trainer.model_init is not None:
        raise ValueError("model_init builds another model when train() begins, and the one that is watched would never run; "
                         "build the model yourself: Trainer(model=model)")


def _attached(trainer: Any, callback: RecorderCallback) -> bool:
    return callback in trainer.callback_handler.callbacks


def _columns(dataset: Any) -> list[list[str]]:
    """The columns of a data set, or of each one in a DatasetDict; empty where it does not tell."""
    names = getattr(dataset, "column_names", None)
    if not names:
        return []
    return [list(of) for of in names.values()] if isinstance(names, dict) else [list(names)]


def _number(trainer: Any) -> str:
    dataset = trainer.train_dataset
    if not hasattr(dataset, "add_column") or not hasattr(dataset, "__len__"):
        raise ValueError("ids=None numbers the rows of a datasets.Dataset, and the training data is a "
                         f"{type(dataset).__name__}; let its samples hold an id, and name it: attach(trainer, recorder, "
                         "ids=\"id\")")
    if KEY not in dataset.column_names:
        trainer.train_dataset = dataset.add_column(KEY, np.arange(len(dataset)))
    return KEY


def _check_texts(trainer: Any) -> None:
    if _of_sentence_transformers(trainer) and any("id" in columns for columns in _columns(trainer.train_dataset)):
        raise ValueError("with ids=None the column 'id' of the training data would be a text, trained on and recorded as such; "
                         "leave ids=None out, and it gives the rows their ids, or remove it: dataset.remove_columns(\"id\")")


def _texts(trainer: Any, ids: str) -> list[str]:
    """The columns that a sentence-transformers loss gets to see; empty for other trainers."""
    all_columns = _columns(trainer.train_dataset)
    for columns in all_columns:
        if ids not in columns:
            raise ValueError(f"the training data has the columns {', '.join(map(repr, columns))} and no {ids!r}: name the one "
                             "that holds each sample's id, attach(trainer, recorder, ids=\"name\"), or number the rows with "
                             "ids=None")
    if not _of_sentence_transformers(trainer):
        return []
    texts = []
    for columns in all_columns:
        label = [name for name in trainer.data_collator.valid_label_columns if name in columns][:1]
        texts.append([name for name in columns if name not in {ids, KEY, "dataset_name", *label}])
    if len({len(names) for names in texts}) > 1:
        raise ValueError("the data sets have different numbers of texts per sample, and a row has one vector in each field; "
                         "train on data sets with the same number, or record one of them with recorder.append")
    return texts[0] if texts else []


def _fields(texts: list[str]) -> list[str]:
    return ["vectors", *(f"{name}_vectors" if name in RESERVED else name for name in texts[1:])]


def _of_sentence_transformers(trainer: Any) -> bool:
    return any(kind.__module__.startswith("sentence_transformers.") for kind in type(trainer).__mro__)


def _embedding_module(trainer: Any) -> Any:
    if _of_sentence_transformers(trainer):
        return trainer.model[-1]        # not the model itself: a loss that cuts dimensions calls that once for each
    prefix = getattr(trainer.model, "base_model_prefix", "") or "encoder"
    raise ValueError(f"which part of {type(trainer.model).__name__} gives the embeddings? Name it: attach(trainer, recorder, "
                     f"module=model.{prefix}.pooler), or module=model.{prefix}, "
                     "select=lambda output: output.last_hidden_state[:, 0]")


def _expected(trainer: Any, ids: str) -> Any:
    dataset = trainer.train_dataset
    if trainer.args.dataloader_drop_last or not hasattr(dataset, "with_format") or not hasattr(dataset, "__len__"):
        return None
    return None if isinstance(dataset, dict) else list(dataset.with_format(None)[ids])


def _wrap_loader(trainer: Any, callback: RecorderCallback, name: str, ids: str) -> None:
    build = getattr(trainer, name)

    @wraps(build)
    def built(*args: Any, **kwargs: Any) -> Any:
        if not _attached(trainer, callback):
            return build(*args, **kwargs)
        with _id_taking(trainer, ids, training=name == "get_train_dataloader"):
            return build(*args, **kwargs)
    setattr(trainer, name, built)


@contextmanager
def _id_taking(trainer: Any, ids: str, training: bool) -> Iterator[None]:
    """A loader built inside takes the ids out of its samples. The trainer's own collator and columns stay as they are."""
    collator, columns = trainer.data_collator, trainer._signature_columns
    trainer.data_collator = IdTaking(collator, ids, keep=training)
    if training:
        trainer._set_signature_columns_if_needed()
        columns = trainer._signature_columns
        trainer._signature_columns = [*columns, ids]
    try:
        yield
    finally:
        trainer.data_collator, trainer._signature_columns = collator, columns


def _wrap_loss(trainer: Any, callback: RecorderCallback) -> None:
    compute = trainer.compute_loss

    @wraps(compute)
    def computed(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if not _attached(trainer, callback):
            return compute(model, inputs, *args, **kwargs)
        ids = inputs.pop(KEY, None) if isinstance(inputs, MutableMapping) else None
        if not model.training or not trainer.is_in_train:       # an evaluation; a call by hand
            return compute(model, inputs, *args, **kwargs)
        if ids is None or isinstance(ids, str):
            raise ValueError(ids or _without_ids(inputs))
        callback.first(ids)
        step = trainer.state.global_step + 1
        with callback.recorder.batch(ids, epoch=callback.epoch, step=step):
            loss = compute(model, inputs, *args, **kwargs)
        callback.step = step
        return loss
    trainer.compute_loss = computed


def _without_ids(inputs: Any) -> str:
    if not isinstance(inputs, MutableMapping):
        return f"the collator gives a {type(inputs).__name__}, which has no place for ids: let it give a dict"
    return (f"a training batch ({', '.join(map(str, inputs))}) comes without ids, because its loader does not use "
            "trainer.data_collator: in your get_train_dataloader() build it with collate_fn=self.data_collator. Or attach() "
            "was called when the training had begun: call it before train()")


def _wrap_saves(trainer: Any, callback: RecorderCallback) -> None:
    # Every checkpoint goes this way; the callbacks' events come too late for the mark, or not at all ("best", SIGTERM).
    save = trainer._save_checkpoint

    @wraps(save)
    def saved(*args: Any, **kwargs: Any) -> Any:
        if _attached(trainer, callback):
            callback.mark(trainer.state)
        return save(*args, **kwargs)
    trainer._save_checkpoint = saved

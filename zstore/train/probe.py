"""Passes over a probe set: at an epoch's end, leaving the training as it was; or over kept checkpoints, afterwards."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from zstore.errors import StoreNotFound
from zstore.reader import Reader
from zstore.train.capture import Select
from zstore.train.passes import Forward, Part, Passes
from zstore.train.recorder import Recorder
from zstore.train.rng import restore_rng, rng_state
from zstore.writer import Writer


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """For whatever looks at a model in the middle of its training: inside, the model is in eval mode and no gradients are
    made; afterwards, exception or not, all is as it was.

    Put back are the training mode of each submodule (a frozen one stays frozen), buffers (a copy of them is kept meanwhile),
    and the states of the random numbers of python, numpy (the global one), torch and every GPU in use. A generator of your
    own, and what a model keeps elsewhere than in buffers, are yours."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    buffers = [(module, dict(module._buffers)) for module in modules]
    values = [(tensor, tensor.clone()) for _, named in buffers for tensor in named.values() if tensor is not None]
    randomness = rng_state()
    try:
        # Not model.eval(): a module's own train() may change weights (merged adapters), and it is not asked on the way back.
        for module in modules:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for module, named in buffers:
            if list(map(id, module._buffers.values())) != list(map(id, named.values())):
                module._buffers.clear()
                module._buffers.update(named)
        with torch.no_grad():
            for tensor, value in values:
                if not torch.equal(tensor, value):      # autograd may hold it: what did not change is not written
                    tensor.copy_(value)
        restore_rng(randomness)


def snapshot(store: Recorder | Writer, model: Any, loader: Any, *, epoch: int, ids: Part = "id", forward: Forward | None = None,
             module: Any = None, select: Select | None = None, **fields: Part) -> int:
    """Record what the model makes of every sample of ``loader`` as one epoch, commit, and give the number of rows.

    Runs within ``undisturbed(model)``: training goes on as if it had not happened, bit for bit. The whole pass waits in main
    memory before its first row is recorded, so that one that failed half-way (a loader, the model) has left no row and can be
    made again: for a probe set, whose vectors are small. A large data set is for ``backfill``.

    Parameters
    ----------
    store : Recorder or Writer
        Where to. A Recorder that watches modules records those, as it does in training; else see ``module``.
    epoch : int
        Of all rows.
    ids : str, int, function or array
        The samples' ids: a key of each batch (``batch["id"]``, ``batch[0]``), a function of a batch, or all ids in the order
        of the loader, which must not shuffle.
    forward : function, optional
        ``forward(batch)`` runs the model. By default tensors go to the model's device, and a batch that is a mapping is
        passed by keywords, without ``ids`` and ``fields``; of a tuple or list the first item that is neither.
    module, select : optional
        The module whose output to record (default: what ``forward`` gives), and ``select(output)`` for its tensor.
    **fields : str, int, function or array
        More fields, each found as ``ids`` are.
    """
    if not isinstance(store, Recorder | Writer):
        raise TypeError(f"snapshot writes to a Recorder or a Writer, not to {type(store).__name__}")
    watched = isinstance(store, Recorder) and module is None and select is None and any(w.active for w in store._watched)
    passes, kept = Passes(model, loader, ids, forward, module, select, fields), []
    with undisturbed(model):
        for batch in passes.batches():
            if watched:
                with store._taking(len(batch.ids)) as values:       # type: ignore[union-attr]
                    passes.forward(batch.inputs)
            else:
                values = {"vectors": passes.vectors(batch)}
            both = values.keys() & batch.fields.keys()
            if both:
                raise ValueError(f"{', '.join(sorted(both))}: the model gives this field, and the call sets it too")
            kept.append((_kept(batch.ids), {name: _kept(value) for name, value in (values | batch.fields).items()}))
    for names, values in kept:
        if "vectors" not in values:
            raise ValueError(f"every row has \"vectors\", and there is only {', '.join(values)}: watch(module, "
                             "field=\"vectors\")")
        store.append(names, values.pop("vectors"), epoch=epoch, **values)
    store.commit()
    return sum(len(names) for names, _ in kept)


def _kept(value: Any) -> Any:
    """A copy in main memory: loaders and compiled models use theirs again."""
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else copy.deepcopy(value)


def backfill(checkpoints: Mapping[int, Any], store: Writer | str | os.PathLike[str], model: Any, loader: Any, *,
             load: Callable[[Any, Any], Any] | None = None, ids: Part = "id", forward: Forward | None = None,
             module: Any = None, select: Select | None = None, storage_options: Any = None, **fields: Part) -> dict[int, int]:
    """Record kept checkpoints as epochs, and give {epoch: rows recorded}.

    What the store holds already is left as it is: an epoch that is there whole is skipped without loading its checkpoint,
    so a call that was killed is made again. Each epoch is committed when it is whole.

    Parameters
    ----------
    checkpoints : {epoch: path or state_dict}
        In the order in which they are to be recorded.
    store : Writer, str or path
        Where to; the store is made if it is not there.
    model
        Takes the checkpoints' weights one after the other; it has the last one's in the end.
    load : function, optional
        ``load(model, checkpoint)`` puts a checkpoint into the model. By default a path is read by ``torch.load`` (weights
        only), and the model of a ``TrainState``, or of what it holds "model", "state_dict" or the whole, goes to
        ``model.load_state_dict``.
    ids, forward, module, select, **fields
        As for ``snapshot``.
    """
    if isinstance(store, Recorder) or not isinstance(store, Writer | str | os.PathLike):
        raise TypeError(f"backfill writes to a store's url or a Writer, not to {type(store).__name__}; a Recorder would start "
                        "the store over")
    passes = Passes(model, loader, ids, forward, module, select, fields)
    with ExitStack() as held:
        if isinstance(store, Writer):
            store.commit()
            before = _head(store.url, store.storage_options, held)
        else:
            before = _head(os.fspath(store), storage_options, held)
        writer, recorded = store if isinstance(store, Writer) else None, {}
        for epoch, checkpoint in checkpoints.items():
            recorded[epoch] = 0
            there = before if before is not None and epoch in before.epochs else None
            if there is not None and _is_whole(there, epoch, passes):
                continue
            if writer is None:
                # No clock: who is killed within an epoch leaves nothing of it.
                writer = held.enter_context(Writer(os.fspath(store), commit_every_s=None,      # type: ignore[arg-type]
                                                   storage_options=storage_options))
            (load or _load)(model, checkpoint)
            with undisturbed(model):
                for batch in passes.batches():
                    missing = _missing(there, epoch, batch.ids)
                    if len(missing):
                        vectors = passes.vectors(batch)
                        writer.append(batch.part(batch.ids, missing), batch.part(vectors, missing), epoch=epoch,
                                      **{name: batch.part(value, missing) for name, value in batch.fields.items()})
                        recorded[epoch] += len(missing)
            writer.commit()
    return recorded


def _head(url: str, storage_options: Any, held: ExitStack) -> Reader | None:
    try:
        return held.enter_context(Reader(url, storage_options=storage_options))
    except StoreNotFound:
        return None


def _is_whole(there: Reader, epoch: int, passes: Passes) -> bool:
    with undisturbed(passes.model):
        return all(not len(_missing(there, epoch, batch.ids)) for batch in passes.batches())


def _missing(there: Reader | None, epoch: int, ids: Any) -> Any:
    """Which of a batch's ids the store lacks at this epoch: their numbers in the batch."""
    return np.arange(len(ids)) if there is None else np.flatnonzero(there.find(ids, epoch=epoch) < 0)


def _load(model: Any, checkpoint: Any) -> None:
    state = checkpoint
    if isinstance(checkpoint, str | os.PathLike):
        if os.path.isdir(checkpoint):
            raise ValueError(f"{os.fspath(checkpoint)} is a folder; say how to load it: "
                             "backfill(..., load=lambda model, path: model.load_state_dict(...))")
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if isinstance(state.get("parts"), Mapping):         # of a TrainState
        state = state["parts"]["model"]["state"]
    for name in ("model", "state_dict"):
        if isinstance(state.get(name), Mapping):
            state = state[name]
            break
    model.load_state_dict(state)

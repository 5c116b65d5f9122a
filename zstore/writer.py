"""The Writer: append rows from a training loop, commit them, hand a mark to a checkpoint."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from zstore.commits.history import Commit
from zstore.commits.log import Log
from zstore.commits.opening import Request, Session, create_store, open_session
from zstore.commits.tags import check_free, put_tag
from zstore.errors import AlreadyExists, BehindCheckpoint, Conflict, StaleWriter, ZStoreError
from zstore.format.record import MAX_META_BYTES, Record
from zstore.notices import logger, warn
from zstore.storage import open_storage
from zstore.writing import registry
from zstore.writing.clock import Clock
from zstore.writing.columns import add_column
from zstore.writing.committer import Committer
from zstore.writing.crew import Crew
from zstore.writing.door import Door
from zstore.writing.options import Options, check_json, whole_number
from zstore.writing.place import check_new, check_place

T = TypeVar("T")


class Writer:
    """Appends rows to a store, which it creates with its first batch or continues.

    A row is an id (string or int64), an epoch, a vector, and a value of each user's field; types and shapes come from the
    first batch. One writer, or one session of writers, at a time: a second one is refused with ``Conflict`` while the first
    lives. Methods may be called from several threads. In a forked child a writer is inert; it refuses to pickle.

    Parameters
    ----------
    url : str or path
        Where the store is, or will be: a local path, ``memory://``, ``s3://`` or any other URL that fsspec serves.
    mode : {"a", "x"}
        "a" creates or continues; "x" refuses a store that another session made (AlreadyExists).
    dim, dtype, id_dtype, codec, fields, attrs, rows_per_shard
        What a new store shall be; an existing one must agree (ValueError). ``codec`` is "lossless" (default), "small"
        or "raw". ``fields`` maps names to a dtype or to ``(dtype, shape)``: exactly those; else the first batch's.
    commit_every_s : float or None
        Seconds after which the clock commits what is pending. None: never.
    session, member : str, int
        Writers of one launch that share a token share a session and append at once.
    at : mark, Commit, version or tag
        Roll the store back to it while opening; rows that were deleted since stay away.
    takeover : bool
        Open although another writer lives; that one is fenced.
    only_writer : bool
        The caller's word that nobody else writes, for storages without atomic creation; neither local disks nor S3 need it.
    """

    def __init__(self, url: str | os.PathLike[str], *, mode: str = "a", dim: int | None = None, dtype: Any = None,
                 id_dtype: Any = None, codec: str | None = None, fields: Mapping[str, Any] | None = None,
                 attrs: Mapping[str, Any] | None = None, rows_per_shard: int | None = None,
                 commit_every_s: float | None = 60.0, session: str | None = None, member: int = 0, at: Any = None,
                 takeover: bool = False, only_writer: bool = False,
                 storage_options: Mapping[str, Any] | None = None) -> None:
        if mode not in ("a", "x"):
            raise ValueError(f"mode must be 'a' (create or continue) or 'x' (create), not {mode!r}")
        if session is not None and (not isinstance(session, str) or not 1 <= len(session) <= 256
                                    or not session.isprintable()):
            raise ValueError("session must be a string of 1 to 256 printable characters, one per launch")
        member = whole_number("member", member, 0, 2**31 - 1)
        self._options = Options.parse(dim=dim, dtype=dtype, id_dtype=id_dtype, codec=codec, fields=fields, attrs=attrs,
                                      rows_per_shard=rows_per_shard)
        clock = Clock(commit_every_s, self)
        self._storage = open_storage(url, storage_options)
        self.url, self.storage_options = self._storage.url, storage_options
        self.token = session or secrets.token_hex(16)
        self._shared = session is not None
        self._request = Request(self.token, member, at, takeover, self._options.attrs)
        self._log = Log(self._storage)
        self._mode, self._pid = mode, os.getpid()
        self._lock = threading.RLock()
        self._closed = self._appended = False
        self.tells_superseded = True
        self.begun = at is not None         # where it stands is settled: so `at` said, or rows were appended
        self._core: Committer | None = None
        self._crew: Crew | None = None
        self._conductor: Crew | None = None         # commits run on its one thread, where no interrupt can part them
        self._nonfinite_said = False
        check_place(self._log, mode, self.token, only_writer)
        self._check_options()
        registry.enter(self.url, self)
        try:
            self._open_existing()
        except BaseException:
            self._let_go()
            raise
        self._clock = clock
        clock.start()

    @property
    def uncommitted(self) -> int:
        """Rows that were appended and that no commit is known to name; behind a close, those that it could not commit."""
        return 0 if self._core is None else self._core.pipeline.uncommitted

    # -- writing -----------------------------------------------------------------------------------------------

    def append(self, ids: Any, vectors: Any, *, epoch: Any = 0, **fields: Any) -> None:
        """Copy a batch and return; encoding and writing go on in the background.

        Parameters
        ----------
        ids : (n,) strings or integers
            Lists, ranges, numpy, pandas, Arrow, torch; of the store's kind.
        vectors : (n, dim) or (n, *shape) floats, int8 or uint8
            numpy, torch on any device (bfloat16 too), or what numpy can read. Floats are rounded to the store's dtype;
            a finite value that would overflow is refused. NaN and infinity are stored as given and counted.
        epoch : int or (n,) integers
            From 0 to 2^31 - 1.
        **fields : (n, *shape), or one value for all rows
            Every field of the store.

        A batch is refused whole at the door (TypeError, ValueError) or taken whole. Nothing is durable before ``commit``.
        Raises what went wrong in the background since the last call, and then has not taken the batch. Blocks where
        the background is behind by more than a shard and a half. The arrays may be changed as soon as it returns.
        """
        self._check_usable()
        if hasattr(ids, "__next__"):        # an iterator can be read once, and a first batch is looked at twice
            ids = list(ids)
        with self._lock:
            core = self._core or self._begin(ids, vectors, epoch, fields)
            if core is None:
                return
            batch = core.pipeline.batches.read(ids, vectors, epoch, fields)
            if batch is not None:
                core.pipeline.append(batch)
                self._appended = self.begun = True

    def check(self, ids: Any, vectors: Any, epoch: Any, fields: Mapping[str, Any], *, at: Any = None) -> None:
        """Raise what ``append`` of this batch would raise at the door, and take nothing. ``at``: as the store would be after a
        rollback to there. Says nothing where there is no store yet."""
        self._check_usable()
        if self._core is not None:
            schema = self._core.schema if at is None else self._log.schema_of(self._log.resolve(at))
            Door(schema).read(ids, vectors, epoch, fields)

    def commit(self, *, tag: str | None = None, meta: Any = None) -> Commit | None:
        """Make everything appended so far durable and visible, atomically, and give its version.

        With nothing new, and no ``meta``, it publishes nothing and gives head's. None where there is no store yet. ``tag``
        names the version (AlreadyExists before anything is written, if taken); ``meta`` is any JSON up to 64 KiB.
        Raises StaleWriter when a newer session took the store over, OSError when the disk refuses (nothing is then
        visible, nothing is lost: commit again), InDoubt when the disk did not say.
        """
        self._check_usable()
        meta = self._check_meta(meta)
        if tag is not None:
            check_free(self._log, tag)
        if self._core is None:
            if tag is not None or meta is not None:
                raise ValueError("there is no store yet to tag or describe: append a batch first")
            return None
        record = self._commit(meta)
        if tag is not None:
            try:
                put_tag(self._log, tag, record)
            except AlreadyExists:
                raise
            except OSError as error:
                raise OSError(error.errno, f"{self.url}: the rows are committed as version {record.version}, but the tag "
                              f"{tag!r} may not be there: {error}") from error
        return Commit.of(record, tag)

    def close(self) -> None:
        """Commit, hand over what can be continued, and let go. A second call does nothing. The writer is closed also when
        the commit fails; the error says what was not committed."""
        if self._closed or os.getpid() != self._pid:
            return
        with self._lock:
            if self._closed:
                return
            try:
                if self._core is not None:
                    self._commit(None, closing=True)
            except OSError as error:
                raise self._named(error) from error
            finally:
                self._let_go()
        core = self._core
        if core is not None and core.superseded and self.tells_superseded:
            warn(f"{self.url}: {core.superseded:,} keys (id, epoch) that an earlier session committed are superseded by this "
                 "session's rows; latest(), epoch() and get() give the new ones")

    def add_field(self, name: str, values: Any, *, fill: Any = None) -> Commit:
        """Add a field to the rows there are, as a commit of its own.

        ``values`` is (rows, *shape) in row order of the version that this commits first, appended rows included. Later
        appends may leave the field out and then store ``fill`` (default: NaN, 0, False or ""). Older versions do not
        have it. Not in a shared session."""
        self._check_usable()
        if self._shared:
            raise Conflict("a field can't be added in a shared session; add it afterwards with a Writer of its own")
        if self._core is None:
            raise ValueError("there is no store yet: pass the field with the first batch")
        with self._lock:
            core = self._core
            return Commit.of(self._conduct(lambda: add_column(core, name, values, fill)))

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any] | None:
        """Commit and give the mark that a checkpoint keeps: plain strings and integers. None where there is no store yet."""
        self._check_usable()
        if self._shared:
            raise Conflict("in a shared session the mark is collective: let every member commit(), take the highest of the "
                           "Commits, and keep its .mark in the checkpoint")
        return None if self._core is None else self._commit(None).mark

    def load_state_dict(self, mark: Any) -> None:
        """Roll the store back to a checkpoint's mark, at once, and only before the first append. None is version 0.

        Raises BehindCheckpoint where the store lacks the mark's commit; ValueError for another store's mark."""
        self._check_usable()
        if self._shared:
            raise Conflict("in a shared session the mark is given at opening: Writer(url, session=..., at=mark)")
        with self._lock:
            core = self._core
            if core is None:
                if mark is not None:
                    raise BehindCheckpoint(f"the checkpoint names {mark!r:.200}, but there is no store at {self.url}; restore "
                                           "it, or start over without the checkpoint")
                return
            if self._appended:
                raise ValueError("load_state_dict comes before the first append; open a new Writer with at=mark instead")
            target = self._log.resolve(0 if mark is None else dict(mark) if isinstance(mark, Mapping) else mark)
            self._conduct(lambda: self._roll_back(core, target))

    # -- the rest ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        # What was appended before an exception is the user's too: it is committed either way.
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            return f"<zstore.Writer {self.url!r} closed>"
        if self._core is None:
            return f"<zstore.Writer {self.url!r} no store yet>"
        f = self._core.schema.vectors
        return (f"<zstore.Writer {self.url!r} session={self._core.session.info.opened} "
                f"dim={'x'.join(map(str, f.shape))} {f.dtype} {self._core.schema.codec}>")

    def __reduce__(self) -> Any:
        raise TypeError("a Writer can't be pickled: open one in the other process, with the same session= if both append")

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise Conflict("this writer belongs to the parent process and is inert in a forked child; open another with the "
                           "same session= in both")
        if self._closed:
            raise ValueError(f"this writer of {self.url} is closed; open Writer({self.url!r}) again")

    def _check_options(self) -> None:
        """Refuse what contradicts the store before an earlier writer of this process is closed for it."""
        at = self._request.at
        if self._log.exists():
            target = self._log.head() if at is None else self._log.resolve(at)
            self._options.check(self._log.schema_of(target), self.url)
        elif at is not None and at != 0:
            raise BehindCheckpoint(f"there is no store at {self.url} to roll back; restore it, or leave `at` out")

    def _open_existing(self) -> None:
        if not self._log.exists():
            return
        self._check_options()
        head = self._log.head()
        session = open_session(self._log, self._request)
        opened = session.opening
        joined = opened.version <= head.version         # the session was there: it cuts nothing and takes nothing over
        if self._request.takeover and not joined:
            logger.warning("%s: taken over from pid %d on %s", self.url, head.session.pid, head.session.host)
        self._core = self._make_core(session)
        if not joined:
            self._say_cut(head, opened)

    def _begin(self, ids: Any, vectors: Any, epoch: Any, fields: Mapping[str, Any]) -> Committer | None:
        """Make the store with this first batch, which is looked at whole before anything is written."""
        schema = self._options.schema_from(ids, vectors, fields)
        if schema is None or Door(schema).read(ids, vectors, epoch, fields) is None:
            return None
        session = create_store(self._log, schema, self._request)
        if session is None:                 # another writer was faster: join it, or be refused
            check_new(self._log, self._mode, self.token)
            self._open_existing()
        else:
            self._core = self._make_core(session)
        return self._core

    def _make_core(self, session: Session) -> Committer:
        if self._crew is None:
            self._crew, self._conductor = Crew(8 if self._log.storage.distant else 4, "zstore-write"), Crew(1, "zstore-commit")
        return Committer.begin(self._log, session, self._crew)

    def _roll_back(self, core: Committer, target: Record) -> None:
        with core.lock:
            head = self._log.head()
            self._options.check(self._log.schema_of(target), self.url)
            self._core = core.rolled_back(target)
        self._say_cut(head, self._core.session.opening)

    def _say_cut(self, head: Record, opened: Record) -> None:
        cut = len(head.extents - opened.extents)
        if cut:
            to = (opened.session.at or {}).get("version", "?")
            warn(f"{self.url}: rolled back from version {head.version} to the rows of version {to}: {cut:,} rows are cut "
                 "(they stay readable at their versions)")

    def _commit(self, meta: Any, *, closing: bool = False) -> Record:
        record = self._commit_core(meta, closing)
        if record.nonfinite and not self._nonfinite_said:
            self._nonfinite_said = True
            warn(f"{self.url}: {record.nonfinite:,} of {record.new_rows:,} rows hold a NaN or an infinity; they are stored as "
                 "given, and counted in each Commit's `nonfinite` (said once)")
        return record

    def _commit_core(self, meta: Any, closing: bool) -> Record:
        while True:
            core = self._core
            assert core is not None
            try:
                return self._conduct(partial(core.commit, meta=meta, closing=closing))
            except StaleWriter:
                # Another thread may have rolled this very writer back, which is a session of its own.
                if core is self._core:
                    raise

    def _conduct(self, call: Callable[[], T]) -> T:
        assert self._conductor is not None
        return self._conductor.do(call)

    def _named(self, error: OSError) -> OSError:
        """The error that ended a close, with what it cost."""
        rows = 0 if self._core is None else self._core.pipeline.uncommitted
        if isinstance(error, ZStoreError) or not rows:
            return error
        return OSError(error.errno, f"{error.strerror or error}; {rows:,} rows that were appended to {self.url} are not "
                       "committed", error.filename)

    def _commit_by_clock(self) -> None:
        core = self._core
        if core is None or self._closed or not core.pipeline.uncommitted:
            return
        try:
            self._commit(None)
        except BaseException as error:      # raised at the caller's next call
            core.pipeline.fail(error)

    def _check_meta(self, meta: Any) -> Any:
        if meta is None:
            return None
        meta = check_json(meta, "meta")
        size = len(json.dumps(meta, ensure_ascii=False).encode())
        if size > MAX_META_BYTES:
            raise ValueError(f"meta is {size} bytes; at most {MAX_META_BYTES}: keep large things beside the store")
        return meta

    def _let_go(self) -> None:
        self._closed = True
        clock = getattr(self, "_clock", None)
        if clock is not None:
            clock.stop()
        if self._core is not None:
            self._core.pipeline.stop()
            self._core.session.lock.release()
        for crew in (self._crew, self._conductor):
            if crew is not None:
                crew.stop()
        registry.leave(self.url, self)


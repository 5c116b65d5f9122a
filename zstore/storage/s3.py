"""S3, and what speaks its protocol, through s3fs: one request per call, conditional where it has to be.

s3fs's own verbs look before they read, use listings, and drop a condition where they split an upload; so this asks its
client directly: PutObject is one request, never a multipart upload.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from zstore.errors import Corrupt
from zstore.storage.backend import Doubtful, Entries, Entry, Got, Unmet
from zstore.storage.base import MOST_READ, Kind
from zstore.storage.filesystems import without_secrets
from zstore.storage.patience import attempt_s

CONNECTIONS = 32
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
_AGAIN_CODES = {"RequestTimeout", "SlowDown", "InternalError", "ConditionalRequestConflict", "OperationAborted"}
_NOT_SENT = {"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError"}
_SETTLED = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoAuthTokenError",
            "ProfileNotFound", "TokenRetrievalError", "UnauthorizedSSOTokenError", "SSOTokenLoadError"}
_UNKNOWN_OPTION = re.compile(r"Session\.__init__\(\) got an unexpected keyword argument '(\w+)'")
T = TypeVar("T")


def s3_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of s3fs with our time-outs and no retries of the client's, unless they say otherwise: each hidden retry is
    one more late duplicate, and multiplies the time that we wait."""
    config = {"connect_timeout": 5, "read_timeout": 15, "retries": {"total_max_attempts": 1},
              "max_pool_connections": CONNECTIONS, **options.get("config_kwargs", {})}
    # Without listings of its own it is also never the instance that the user's code shares.
    return {"use_listings_cache": False, **options, "config_kwargs": config}


class S3Backend:
    """See ``Backend``. ``shown`` is the store's URL as errors name it."""

    atomic = True
    conditional = True
    dated = True

    def __init__(self, fs: Any, root: str, shown: str) -> None:
        fs.retries = 1
        self._fs = fs
        self._bucket, prefix, _ = fs.split_path(root)
        if not self._bucket:
            raise ValueError(f"{shown} names no bucket; the URL of a store is s3://bucket/path")
        self._prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        self._shown = shown

    def get(self, name: str, start: int = 0, stop: int | None = None, *, generation: str = "") -> Got:
        """See ``Backend.get``; one request, two for the end of an empty object."""
        wanted: dict[str, Any] = {"IfMatch": generation} if generation else {}
        if start < 0:
            wanted["Range"] = f"bytes={start}"
        elif start or stop is not None:
            wanted["Range"] = f"bytes={start}-" + ("" if stop is None else str(stop - 1))
        size = stop - start if stop is not None else -start if start < 0 else 64 << 20

        async def ask() -> Got:
            answer = await self._fs._call_s3("get_object", Bucket=self._bucket, Key=self._key(name), **wanted)
            if not wanted.get("Range") and answer["ContentLength"] > MOST_READ:
                answer["Body"].close()
                raise Corrupt(name, "the document is too large", expected=f"<= {MOST_READ} bytes",
                              actual=answer["ContentLength"])
            async with answer["Body"] as body:
                data = bytes(await body.read())
            return _got(answer, data, start, stop, f"{self._shown}/{name}")

        try:
            return self._do(name, ask, size)
        except OSError as error:
            if start < 0 and error.errno == errno.ERANGE:       # an empty object has no last byte
                return self.get(name, generation=generation)
            raise

    def head(self, name: str) -> tuple[int, str]:
        """See ``Backend.head``; one request."""
        async def ask() -> tuple[int, str]:
            answer = await self._fs._call_s3("head_object", Bucket=self._bucket, Key=self._key(name))
            return int(answer["ContentLength"]), str(answer["ETag"])
        return self._do(name, ask)

    def put(self, name: str, data: bytes, *, absent: bool = False, over: str | None = None) -> str:
        """See ``Backend.put``; one request, whatever the size."""
        condition = {"IfNoneMatch": "*"} if absent else {"IfMatch": over} if over is not None else {}

        async def ask() -> str:
            answer = await self._fs._call_s3("put_object", Bucket=self._bucket, Key=self._key(name), Body=data, **condition)
            return str(answer["ETag"])

        try:
            return self._do(name, ask, len(data))
        except FileNotFoundError as error:
            if over is not None and getattr(error, "code", "") == "NoSuchKey":
                raise Unmet(str(error)) from None
            raise

    def delete(self, name: str) -> None:
        """See ``Backend.delete``; one request."""
        async def ask() -> None:
            await self._fs._call_s3("delete_object", Bucket=self._bucket, Key=self._key(name))
        self._do(name, ask)

    def list(self, folder: str) -> Entries:
        """See ``Backend.list``; one request per 1,000 names."""
        prefix = self._key(folder) + "/" if folder else self._prefix
        found: Entries = []
        more: dict[str, Any] = {}
        while True:
            page = self._page(folder, prefix, **more)
            found += [Entry(item["Key"][len(prefix):], False, _seconds(item["LastModified"]))
                      for item in page.get("Contents", ()) if item["Key"] != prefix]
            found += [Entry(item["Prefix"][len(prefix):].rstrip("/"), True, 0.0) for item in page.get("CommonPrefixes", ())]
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def make_folder(self, folder: str) -> None:
        """S3 has no folders."""

    def kind(self) -> Kind:
        """See ``Backend.kind``; two requests at most."""
        try:
            found = self._page("", self._prefix, MaxKeys=2)
            keys = [item["Key"] for item in found.get("Contents", ())]
            if found.get("CommonPrefixes") or set(keys) - {self._prefix}:
                return "folder"
            if keys or not self._prefix:
                return "empty"
            self.head("")
        except FileNotFoundError:
            return "nothing"
        return "file"

    def now(self) -> float:
        """See ``Backend.now``: the date of an answer, to the second."""
        page = self._page("", self._prefix, MaxKeys=1)
        try:
            return parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
        except (KeyError, ValueError, TypeError):
            raise Doubtful(f"{self._shown}: the server told no date") from None

    def _page(self, folder: str, prefix: str, **more: Any) -> Any:
        async def ask() -> Any:
            return await self._fs._call_s3("list_objects_v2", Bucket=self._bucket, Prefix=prefix, Delimiter="/", **more)
        return self._do(folder, ask)

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}" if name else self._prefix.rstrip("/")

    def _do(self, name: str, ask: Callable[[], Awaitable[T]], size: int = 0) -> T:
        """Run it on the loop of the file system, for a bounded time; its failure as one of ours."""
        from fsspec.asyn import sync

        shown = f"{self._shown}/{name}" if name else self._shown
        try:
            done: T = sync(self._fs.loop, ask, timeout=attempt_s(size))
            return done
        except (Unmet, Doubtful, Corrupt):
            raise
        except Exception as error:
            raise _told(error, shown) from None


def _got(answer: Any, data: bytes, start: int, stop: int | None, shown: str) -> Got:
    """The answer to a GetObject. Doubtful where it is not what was asked for: a proxy cut it short."""
    where, size = answer.get("ContentRange"), len(data)
    if where is not None:
        span, _, total = where.removeprefix("bytes ").partition("/")
        first, _, last = span.partition("-")
        size = int(total)
        begin = max(size + start, 0) if start < 0 else start
        end = size if stop is None else stop
        if (int(first), int(last) + 1) != (begin, end) or len(data) != end - begin:
            raise Doubtful(f"{shown}: the bytes {begin} to {end} were asked for, {where} came with {len(data)} bytes")
    elif len(data) != answer["ContentLength"]:
        raise Doubtful(f"{shown}: {len(data)} bytes came of {answer['ContentLength']}")
    elif stop is not None:                  # the server sent the whole object
        data = data[start:stop]
    return Got(data, size, str(answer["ETag"]))


def _told(error: Exception, shown: str) -> Exception:
    """What a failure of the client means."""
    # s3fs translates a client's error, and keeps the original as the cause.
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    if isinstance(response, dict) and "Error" in response:
        return _answered(response, shown)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    text = without_secrets(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    if kinds & _SETTLED:
        return PermissionError(f"{shown}: {text}")
    if unknown := _UNKNOWN_OPTION.search(text):
        return ValueError(f"{shown}: the storage has no option {unknown[1]!r}")
    if isinstance(error, (TypeError, ValueError, RuntimeError, NotImplementedError)) or "ParamValidationError" in kinds:
        return OSError(errno.EINVAL, f"the request could not be made: {text}", shown)
    return Doubtful(f"{shown}: no answer ({text})", sent=not kinds & _NOT_SENT)


def _answered(response: dict[str, Any], shown: str) -> Exception:
    code = str(response["Error"].get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = without_secrets(f"{shown}: {response['Error'].get('Message') or 'refused'} ({status} {code})")
    if status == 412 or code == "PreconditionFailed":
        return Unmet(text)
    if status in _AGAIN or code in _AGAIN_CODES:
        return Doubtful(text)
    if status == 404 or code in ("NoSuchKey", "NoSuchBucket"):
        absent = FileNotFoundError(errno.ENOENT, f"{response['Error'].get('Message') or 'not found'}", shown)
        absent.code = code  # type: ignore[attr-defined]
        return absent
    if status in (401, 403):
        return PermissionError(f"{text}; a key that may not list the bucket is told the same of absent objects")
    if status == 416:
        return OSError(errno.ERANGE, text, shown)
    return OSError(errno.ENOSYS if status == 501 else errno.EINVAL, text, shown)


def _seconds(date: datetime) -> float:
    return date.timestamp()

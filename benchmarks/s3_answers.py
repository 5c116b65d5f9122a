"""The part of S3 that array stores use, in memory: what a request does and what it is told. No network here.

Conditions, ranges, listings, multipart uploads, copies and errors are those of S3; signatures and checksums that come along
are not looked at. An ETag is a number of its own per write, not the MD5 of the bytes, which would cost more than all else.
"""

from __future__ import annotations

import time
import uuid
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

MOST_NAMES = 1000
_MESSAGES = {"NoSuchKey": (404, "The specified key does not exist."), "NoSuchBucket": (404, "The bucket does not exist."),
             "NoSuchUpload": (404, "The upload does not exist."), "InvalidPart": (400, "A part was not uploaded."),
             "PreconditionFailed": (412, "At least one of the pre-conditions you specified did not hold."),
             "InvalidRange": (416, "The requested range is not satisfiable."),
             "NotImplemented": (501, "This server has no such call.")}


@dataclass
class Request:
    """``path`` is unquoted, ``headers`` have names in lower case, ``query`` has its values unquoted ("" where none)."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes | bytearray = b""

    @property
    def kind(self) -> str:
        """What it is counted as: its method, and LIST for a listing."""
        bucket_only = "/" not in self.path.strip("/")
        return "LIST" if self.method == "GET" and bucket_only and "location" not in self.query else self.method


@dataclass
class Reply:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""
    length: int | None = None       # of the body that a HEAD is told about


@dataclass
class Object:
    data: bytes | bytearray
    etag: str
    modified: float


class Refused(Exception):
    """The code of the error that the client is told."""


class Bucket:
    """Names to objects, and the names in order."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.names: list[str] = []
        self.uploads: dict[str, dict[int, Object]] = {}
        self.writes = 0

    def put(self, name: str, data: bytes | bytearray) -> Object:
        if name not in self.objects:
            insort(self.names, name)
        self.objects[name] = made = self.made(data)
        return made

    def made(self, data: bytes | bytearray) -> Object:
        self.writes += 1
        return Object(data, f'"{self.writes:032x}"', time.time())

    def get(self, name: str) -> Object:
        try:
            return self.objects[name]
        except KeyError:
            raise Refused("NoSuchKey") from None

    def delete(self, name: str) -> None:
        if self.objects.pop(name, None) is not None:
            del self.names[bisect_left(self.names, name)]


class Service:
    """All buckets. ``answer`` is one step: between a condition and its write there is nothing."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}

    def answer(self, request: Request) -> Reply:
        """Do it."""
        name, _, key = request.path.lstrip("/").partition("/")
        try:
            if not key:
                return self._of_bucket(request, name)
            return self._of_object(request, self._bucket(name), key)
        except Refused as why:
            return _refusal(str(why), request)

    def _bucket(self, name: str) -> Bucket:
        try:
            return self.buckets[name]
        except KeyError:
            raise Refused("NoSuchBucket") from None

    def _of_bucket(self, request: Request, name: str) -> Reply:
        if request.method == "PUT":
            self.buckets.setdefault(name, Bucket())
            return Reply(200)
        bucket = self._bucket(name)
        if request.method == "HEAD":
            return Reply(200, {"x-amz-bucket-region": "us-east-1"})
        if request.method == "GET" and "location" in request.query:
            return _xml("<LocationConstraint>us-east-1</LocationConstraint>")
        if request.method == "GET":
            return _xml(_listed(bucket, name, request.query))
        if request.method == "POST" and "delete" in request.query:
            names = [str(item.text) for item in ElementTree.fromstring(request.body).iter() if item.tag.endswith("Key")]
            for key in names:
                bucket.delete(key)
            deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in names)
            return _xml(f"<DeleteResult>{deleted}</DeleteResult>")
        raise Refused("NotImplemented")

    def _of_object(self, request: Request, bucket: Bucket, key: str) -> Reply:
        query = request.query
        if "uploads" in query or "uploadId" in query:
            return _of_upload(request, bucket, key)
        if request.method in ("GET", "HEAD"):
            return _read(bucket.get(key), request)
        if request.method == "PUT":
            check_write(request, bucket.objects.get(key))
            if source := request.headers.get("x-amz-copy-source"):
                found, _, name = unquote(source).lstrip("/").partition("/")
                made = bucket.put(key, self._bucket(found).get(name).data)
                return _xml(f"<CopyObjectResult><LastModified>{_date(made.modified)}</LastModified>"
                            f"<ETag>{escape(made.etag)}</ETag></CopyObjectResult>")
            return Reply(200, {"ETag": bucket.put(key, plain(request)).etag})
        if request.method == "DELETE":
            bucket.delete(key)
            return Reply(204)
        raise Refused("NotImplemented")


def check_write(request: Request, there: Object | None) -> None:
    """The conditions of a PUT, or of the end of an upload."""
    if request.headers.get("if-none-match") == "*" and there is not None:
        raise Refused("PreconditionFailed")
    wanted = request.headers.get("if-match")
    if wanted is not None and there is None:
        raise Refused("NoSuchKey")
    if wanted is not None and there is not None and wanted.strip('"') != there.etag.strip('"'):
        raise Refused("PreconditionFailed")


def plain(request: Request) -> bytes | bytearray:
    """The body without the frames that signed and trailing checksums put around it."""
    if "aws-chunked" not in request.headers.get("content-encoding", "") and (
            not request.headers.get("x-amz-content-sha256", "").startswith("STREAMING-")):
        return request.body
    frames = Frames()
    frames.add(request.body)
    return frames.body


class Frames:
    """A body in pieces, each behind its length: as HTTP's chunked encoding has it, and S3's signed uploads."""

    def __init__(self) -> None:
        self.body = bytearray()
        self._raw, self._at = bytearray(), 0

    def add(self, data: bytes | bytearray | memoryview) -> bool:
        """What came; whether that was all."""
        self._raw += data
        while (end := self._raw.find(b"\r\n", self._at)) >= 0:
            size = int(bytes(self._raw[self._at:end]).split(b";")[0], 16)
            if not size:
                return self._raw.find(b"\r\n\r\n", end) >= 0
            if len(self._raw) < end + 2 + size + 2:
                return False
            self.body += memoryview(self._raw)[end + 2:end + 2 + size]
            self._at = end + 2 + size + 2
        return False


def _read(there: Object, request: Request) -> Reply:
    told = {"ETag": there.etag, "Last-Modified": formatdate(there.modified, usegmt=True), "Accept-Ranges": "bytes",
            "Content-Type": "binary/octet-stream"}
    wanted, unwanted = request.headers.get("if-match"), request.headers.get("if-none-match")
    if wanted is not None and wanted != "*" and wanted.strip('"') != there.etag.strip('"'):
        raise Refused("PreconditionFailed")
    if unwanted is not None and (unwanted == "*" or unwanted.strip('"') == there.etag.strip('"')):
        return Reply(304, told)
    status, view, size = 200, memoryview(there.data), len(there.data)
    if span := _span(request.headers.get("range", ""), size):
        start, stop = span
        status, view = 206, view[start:stop]
        told["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Reply(status, told, b"", len(view)) if request.method == "HEAD" else Reply(status, told, view)


def _span(text: str, size: int) -> tuple[int, int] | None:
    """[start, stop) of a Range header; None without one, or with one that is not understood, which S3 passes over."""
    first, dash, last = text.removeprefix("bytes=").partition("-")
    if not text.startswith("bytes=") or not dash or "," in text or not (first or last):
        return None
    start, stop = (int(first), int(last) + 1 if last else size) if first else (max(size - int(last), 0), size)
    if start >= size or stop <= start:
        raise Refused("InvalidRange")
    return start, min(stop, size)


def _of_upload(request: Request, bucket: Bucket, key: str) -> Reply:
    if request.method == "POST" and "uploads" in request.query:
        upload = uuid.uuid4().hex
        bucket.uploads[upload] = {}
        return _xml(f"<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
                    "</InitiateMultipartUploadResult>")
    upload = request.query.get("uploadId", "")
    if upload not in bucket.uploads:
        raise Refused("NoSuchUpload")
    parts = bucket.uploads[upload]
    if request.method == "PUT":
        number = int(request.query["partNumber"])
        parts[number] = bucket.made(plain(request))
        return Reply(200, {"ETag": parts[number].etag})
    if request.method == "DELETE":
        del bucket.uploads[upload]
        return Reply(204)
    if request.method != "POST":
        raise Refused("NotImplemented")
    check_write(request, bucket.objects.get(key))
    numbers = [int(str(item.text)) for item in ElementTree.fromstring(request.body).iter() if item.tag.endswith("PartNumber")]
    if not numbers or any(number not in parts for number in numbers):
        raise Refused("InvalidPart")
    made = bucket.put(key, b"".join(parts[number].data for number in numbers))
    del bucket.uploads[upload]
    return _xml(f"<CompleteMultipartUploadResult><Key>{escape(key)}</Key><ETag>{escape(made.etag)}</ETag>"
                "</CompleteMultipartUploadResult>", {"ETag": made.etag})


def _listed(bucket: Bucket, name: str, query: dict[str, str]) -> str:
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    most = min(int(query.get("max-keys", MOST_NAMES)), MOST_NAMES)
    two = query.get("list-type") == "2"
    after = (query.get("continuation-token") or query.get("start-after", "")) if two else query.get("marker", "")
    encode = quote if query.get("encoding-type") == "url" else escape
    at = max(bisect_left(bucket.names, prefix), bisect_left(bucket.names, after + "\0") if after else 0)
    found: list[str] = []
    last, cut = "", False
    while at < len(bucket.names) and bucket.names[at].startswith(prefix):
        key = bucket.names[at]
        head, sign, _ = key[len(prefix):].partition(delimiter) if delimiter else ("", "", "")
        common = prefix + head + sign if sign else ""
        if common and after.startswith(common):         # told on the page before
            at = bisect_left(bucket.names, common[:-1] + chr(ord(common[-1]) + 1))
            continue
        if len(found) == most:
            cut = True
            break
        if common:
            found.append(f"<CommonPrefixes><Prefix>{encode(common)}</Prefix></CommonPrefixes>")
            at, last = bisect_left(bucket.names, common[:-1] + chr(ord(common[-1]) + 1)), common
        else:
            there = bucket.objects[key]
            found.append(f"<Contents><Key>{encode(key)}</Key><LastModified>{_date(there.modified)}</LastModified><ETag>"
                         f"{escape(there.etag)}</ETag><Size>{len(there.data)}</Size><StorageClass>STANDARD</StorageClass></Contents>")
            at, last = at + 1, key
    tag = "NextContinuationToken" if two else "NextMarker"
    more = f"<{tag}>{encode(last)}</{tag}>" if cut else ""
    kind = "<EncodingType>url</EncodingType>" if encode is quote else ""
    return (f"<ListBucketResult><Name>{name}</Name><Prefix>{encode(prefix)}</Prefix><Delimiter>{encode(delimiter)}</Delimiter>"
            f"<KeyCount>{len(found)}</KeyCount><MaxKeys>{most}</MaxKeys><IsTruncated>{str(cut).lower()}</IsTruncated>{kind}{more}"
            f"{''.join(found)}</ListBucketResult>")


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03}Z"


def _xml(text: str, headers: dict[str, str] | None = None) -> Reply:
    return Reply(200, {"Content-Type": "application/xml", **(headers or {})},
                 f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode())


def _refusal(code: str, request: Request) -> Reply:
    status, text = _MESSAGES[code]
    body = (f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{text}</Message>'
            f"<Resource>{escape(request.path)}</Resource><RequestId>0</RequestId></Error>").encode()
    return Reply(status, {"Content-Type": "application/xml"}, b"" if request.method == "HEAD" else body)

"""The S3 server of the benchmarks: it answers as moto does, it counts, and who is slow keeps nobody else waiting."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import boto3
import numpy as np
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

import zstore
from benchmarks import slow_s3
from benchmarks.contenders import CONTENDERS
from benchmarks.run import Options, Run
from benchmarks.s3_answers import Request, Service
from benchmarks.s3_distance import Pipe
from benchmarks.scenarios import remote
from benchmarks.slow_s3 import Distance, Server

BODY = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def near() -> Iterator[Server]:
    with Server(Distance(0, 0, 0)) as server:
        yield server


def client(server: Any) -> Any:
    options = server.options
    return boto3.client("s3", endpoint_url=options["endpoint_url"], aws_access_key_id=options["key"],
                        aws_secret_access_key=options["secret"], region_name="us-east-1",
                        config=Config(retries={"total_max_attempts": 1}))


def told(act: Callable[[], Any], *names: str) -> Any:
    """What of an answer must be alike: status, body, these members; of a refusal its status and code."""
    try:
        answer = act()
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
    body = answer["Body"].read() if "Body" in answer else None
    return answer["ResponseMetadata"]["HTTPStatusCode"], body, *(answer.get(name) for name in names)


def listed(page: Any) -> Any:
    return ([entry["Key"] for entry in page.get("Contents", ())], [entry["Size"] for entry in page.get("Contents", ())],
            [entry["Prefix"] for entry in page.get("CommonPrefixes", ())], page["IsTruncated"], page["KeyCount"])


def at_key(top: str, name: str) -> dict[str, str]:
    return {"Key": f"{top}/{name}"}


def conversation(s3: Any, bucket: str, top: str) -> list[Any]:
    """All that the contenders ask of a server, and what they are told."""
    def at(name: str) -> dict[str, str]:
        return {"Bucket": bucket, "Key": f"{top}/{name}"}

    def pages(**options: Any) -> Iterator[Any]:
        more: dict[str, Any] = {}
        while True:
            page = s3.list_objects_v2(Bucket=bucket, **options, **more)
            yield listed(page)
            if not page["IsTruncated"]:
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    out = [told(lambda: s3.get_object(**at("a"))), told(lambda: s3.head_object(**at("a"))),
           told(lambda: s3.put_object(**at("a"), Body=BODY, IfMatch='"0"')),
           told(lambda: s3.put_object(**at("a"), Body=BODY, IfNoneMatch="*")),
           told(lambda: s3.put_object(**at("a"), Body=b"other", IfNoneMatch="*")),
           told(lambda: s3.put_object(**at("a"), Body=b"other", IfMatch='"00000000000000000000000000000000"')),
           told(lambda: s3.put_object(Bucket="nobody-has-it", Key="a", Body=b""))]
    etag = s3.head_object(**at("a"))["ETag"]
    out += [told(lambda: s3.get_object(**at("a")), "ContentLength", "ContentRange"),
            *(told(lambda span=span: s3.get_object(**at("a"), Range=f"bytes={span}"), "ContentLength", "ContentRange")  # type: ignore[misc]
              for span in ("0-0", "5-99", "10000-", "10000-99999", "-7", "-99999", "10240-", "20000-20001")),
            told(lambda: s3.get_object(**at("a"), IfMatch=etag)),
            told(lambda: s3.get_object(**at("a"), IfMatch='"0"')),
            told(lambda: s3.get_object(**at("a"), IfNoneMatch=etag)),
            told(lambda: s3.put_object(**at("a"), Body=b"newer", IfMatch=etag)),
            told(lambda: s3.put_object(**at("a"), Body=b"again", IfMatch=etag)),
            told(lambda: s3.head_object(**at("a")), "ContentLength")]
    for name in ("d/x", "d/y/z", "d.x", "e f+&<ü>", "d/y/w"):
        s3.put_object(**at(name), Body=name.encode())
    out += [*pages(Prefix=f"{top}/"), *pages(Prefix=f"{top}/", Delimiter="/"), *pages(Prefix=f"{top}/d", Delimiter="/"),
            *pages(Prefix=f"{top}/", Delimiter="/", MaxKeys=1), *pages(Prefix=f"{top}/", MaxKeys=4),
            *pages(Prefix=f"{top}/", StartAfter=f"{top}/d/x"), *pages(Prefix=f"{top}/nothing/")]
    upload = s3.create_multipart_upload(**at("m"))["UploadId"]
    parts = [{"PartNumber": number, "ETag": s3.upload_part(**at("m"), UploadId=upload, PartNumber=number,
                                                         Body=bytes([number]) * (5 << 20))["ETag"]} for number in (2, 1)]
    out += [told(lambda: s3.get_object(**at("m"))),
            told(lambda: s3.complete_multipart_upload(**at("m"), UploadId=upload, MultipartUpload={"Parts": parts[::-1]})),
            told(lambda: s3.get_object(**at("m"), Range="bytes=5242878-5242881")),
             told(lambda: s3.copy_object(**at("c"), CopySource=f"{bucket}/{top}/d/x")),
            told(lambda: s3.get_object(**at("c"))),
            told(lambda: s3.delete_object(**at("d/x"))), told(lambda: s3.delete_object(**at("d/x"))),
            told(lambda: s3.delete_objects(Bucket=bucket, Delete={"Objects": [at_key(top, "e f+&<ü>"), at_key(top, "m")]})),
            *pages(Prefix=f"{top}/")]
    return out


def test_it_answers_as_moto_does(near: Server, s3: Any) -> None:
    ours, theirs = conversation(client(near), near.bucket, "talk"), conversation(client(s3), s3.bucket, "talk")
    assert len(ours) == len(theirs)
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert mine == other, number


def test_of_two_that_create_a_name_one_is_refused(near: Server) -> None:
    s3, won = client(near), []

    def create(number: int) -> None:
        won.append(told(lambda: s3.put_object(Bucket=near.bucket, Key="race", Body=bytes([number]), IfNoneMatch="*"))[0])
    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [200] + [412] * 7


def test_a_body_in_signed_pieces_is_taken_out_of_them() -> None:
    service = Service()
    service.answer(Request("PUT", "/b", {}, {}))
    framed = b"4;chunk-signature=x\r\nabcd\r\n3\r\nefg\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n"
    headers = {"content-encoding": "aws-chunked", "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}
    assert service.answer(Request("PUT", "/b/k", {}, headers, framed)).status == 200
    assert bytes(service.answer(Request("GET", "/b/k", {}, {})).body) == b"abcdefg"


def test_a_body_may_come_without_its_length(near: Server) -> None:
    where = urlsplit(near.endpoint)
    connection = http.client.HTTPConnection(str(where.hostname), where.port)
    for turn in range(2):           # the connection is good for another
        pieces = [bytes([turn]) * 70_000, b"x", b"yz" * 50_000]
        connection.request("PUT", "/bucket/framed", iter(pieces), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
        assert connection.getresponse().read() == b""
        assert slow_s3.ask(near.endpoint, "GET", "/bucket/framed") == (200, b"".join(pieces))
    connection.close()


def test_it_counts_requests_bytes_and_how_many_wait_for_one_another(near: Server) -> None:
    s3 = client(near)
    assert slow_s3.counts(near.endpoint, forget=True) is not None
    for name in ("one", "two"):
        s3.put_object(Bucket=near.bucket, Key=f"count/{name}", Body=BODY)
    s3.get_object(Bucket=near.bucket, Key="count/one", Range="bytes=0-99")["Body"].read()
    s3.head_object(Bucket=near.bucket, Key="count/one")
    s3.list_objects_v2(Bucket=near.bucket, Prefix="count/")
    s3.delete_object(Bucket=near.bucket, Key="count/one")
    found = slow_s3.counts(near.endpoint, forget=True)
    assert found is not None
    assert {method: found[method] for method in slow_s3.METHODS} == {
        "PUT": 2, "GET": 1, "HEAD": 1, "LIST": 1, "DELETE": 1, "POST": 0}
    assert found["in"] == 2 * len(BODY) and 100 <= found["out"] < 100 + 5_000 and found["rounds"] == 6
    assert slow_s3.counts(near.endpoint) == dict.fromkeys((*slow_s3.METHODS, "in", "out", "rounds"), 0)


def test_a_slow_request_keeps_nobody_waiting() -> None:
    with Server(Distance(0.5, 0, 0)) as far:
        threads = [threading.Thread(target=slow_s3.ask, args=(far.endpoint, "PUT", f"/bucket/{number}", b"x"))
                   for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = slow_s3.counts(far.endpoint)
    assert found is not None and found["PUT"] == 12 and found["rounds"] == 1     # none had to wait for another's reply


def test_bytes_take_their_time_on_a_connection_and_on_all() -> None:
    one, all_of_them = Pipe(100.0), Pipe(400.0)
    assert one.through(0.0, 50) == 0.5 and one.through(0.2, 50) == 1.0 and one.through(5.0, 100) == 6.0
    assert [all_of_them.through(0.0, 100) for _ in range(3)] == [0.25, 0.5, 0.75]
    assert Pipe(0).through(3.0, 10**9) == 3.0


def test_another_server_does_not_count(s3: Any) -> None:
    assert slow_s3.counts(s3.endpoint) is None and slow_s3.counts("http://127.0.0.1:9") is None


def test_a_commit_is_five_requests_one_after_another(near: Server) -> None:
    """The objects, the record, the arrays' documents, the group's, and a look whether head is still there."""
    rng = np.random.default_rng(0)
    with zstore.Writer(near.url("rounds"), storage_options=near.options, commit_every_s=None) as writer:
        for turn in range(4):
            writer.append([f"{turn}-{row}" for row in range(40)], rng.random((40, 8), np.float32), epoch=turn)
            slow_s3.counts(near.endpoint, forget=True)
            writer.commit()
            found = slow_s3.counts(near.endpoint, forget=True)
            assert found is not None
            if turn:            # 3 shards, a run, a record, 4 documents, and a look
                assert (found["PUT"], found["HEAD"], found["GET"], found["LIST"]) == (9, 1, 0, 0)
    reader = zstore.Reader(near.url("rounds"), storage_options=near.options)
    found = slow_s3.counts(near.endpoint)
    assert len(reader) == 160 and found is not None


def test_an_opening_is_four_requests(near: Server) -> None:
    with zstore.Writer(near.url("open"), storage_options=near.options) as writer:
        writer.append(["a"], np.ones((1, 8), np.float32))
    slow_s3.counts(near.endpoint, forget=True)
    with zstore.Reader(near.url("open"), storage_options=near.options) as reader:
        found = slow_s3.counts(near.endpoint)
        assert len(reader) == 1 and found is not None and (found["GET"], found["HEAD"], found["LIST"]) == (3, 1, 0)


def test_the_scenario_runs_for_zstore_and_a_rival(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FAR", Distance(0.001, 0, 0))
    rivals = [name for name in CONTENDERS if name.startswith("zarr-python") and CONTENDERS[name].remote][:1]
    result = Run("remote", Options(str(tmp_path), rows=2_000, data="random", rounds=1, only=("zstore raw", *rivals))).result()
    ours = result["contenders"]["zstore raw"]["figures"]
    assert set(ours) == {f["name"] for f in result["figures"]} - {"commit of 12,800 rows", "commit of 12,800 rows: sent"}
    assert ours["commit of 256 rows: PUTs"]["value"] == 9 and ours["open: requests"]["value"] == 4
    assert ours["gather from a cache folder: requests"]["value"] < ours["gather cold: requests"]["value"]
    for name in rivals:
        assert "append" in result["contenders"][name]["figures"] or "not" in result["skipped"].get(name, "")

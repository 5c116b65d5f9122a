"""Tags: a name for a version, created if absent, never changed."""

from __future__ import annotations

import time

from zstore.commits.log import Log, check_tag
from zstore.errors import AlreadyExists
from zstore.format.checksum import seal_json
from zstore.format.layout import TAGS, tag_name
from zstore.format.record import FORMAT_MAJOR, FORMAT_MINOR, Record


def check_free(log: Log, tag: str) -> None:
    """AlreadyExists, naming the version, where the tag is taken; ValueError for digits alone, which look like a version."""
    if check_tag(tag).isdecimal():         # one that is there is read; but `zstore rollback URL 3` should mean one thing
        raise ValueError(f"the tag {tag!r} would be taken for a version's number: put a letter into it, such as v{tag}")
    if log.storage.exists(tag_name(tag)):
        raise AlreadyExists(f"the tag {tag!r} of {log.storage.url} names version {log.tag(tag)} already; tags never move: "
                            "choose another")


def put_tag(log: Log, tag: str, record: Record) -> None:
    """Name this version; durable on return. AlreadyExists where another writer took the tag meanwhile."""
    storage = log.storage
    body = seal_json({"format": f"{FORMAT_MAJOR}.{FORMAT_MINOR}", "tag": tag, "store_id": record.store_id,
                      "version": record.version, "commit_id": record.commit_id, "time": time.time()})
    if not storage.create(storage.draft([body], f"{record.session.opened:020d}"), tag_name(tag)) and (
            log.tag(tag) != record.version):
        check_free(log, tag)
    storage.sync([TAGS])

"""Storage does I/O and knows no meaning: named objects in a folder, durable drafts, atomic names, locks, pages.

Nothing here knows what a shard, a record or a field is. A name is a relative POSIX path, an object is bytes.

* ``base``         the interface: Storage, Handle, Draft, Lock
* ``local``        a folder on a local disk; ``descriptors`` and ``flocks`` are the system calls below it
* ``remote``       any fsspec URL. Below it: ``filesystems`` (the one home of fsspec), ``backend`` (what is asked of a
                   service), ``s3``, ``generic``; ``patience``, ``conditional``, ``handles``, ``ranges``
* ``leases``       signs of life, where there are no locks
* ``memory``       ``memory://`` URLs, for tests and demonstrations
* ``pages``        reserved address ranges, file mappings, memory shared with forked children
"""

from __future__ import annotations

from zstore.storage.base import Draft, Handle, Lock, Storage
from zstore.storage.open import open_storage

__all__ = ["Draft", "Handle", "Lock", "Storage", "open_storage"]

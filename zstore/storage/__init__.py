"""Storage does I/O and knows no meaning: named objects in a folder, durable drafts, atomic names, locks, pages.

Nothing here knows what a shard, a record or a field is. A name is a relative POSIX path, an object is bytes.

* ``base``         the interface: Storage, Handle, Draft, Lock
* ``local``        a folder on a disk or a network. Below it: ``local_life`` (who lives), ``folder`` (paths), ``mounts`` (what
                   holds there), ``signs``; ``descriptors`` and ``flocks`` are the system calls
* ``remote``       any fsspec URL. Below it: ``filesystems`` (the one home of fsspec), ``backend`` (what is asked of a
                   service), ``s3``, ``generic``; ``patience``, ``conditional``, ``handles``, ``ranges``
* ``leases``       signs of life, where there are no locks
* ``memory``       ``memory://`` URLs, for tests and demonstrations
* ``chunk_cache``  what distant storages sent, kept in a local folder; ``secrets``: what a pickle leaves out
* ``pages``        reserved address ranges, file mappings, memory shared with forked children
"""

from __future__ import annotations

from zstore.storage.base import Draft, Handle, Lock, Storage
from zstore.storage.open import open_storage

__all__ = ["Draft", "Handle", "Lock", "Storage", "open_storage"]

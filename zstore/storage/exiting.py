"""Requests while the interpreter exits, which is when a Writer that was left open commits."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class UnendingPool(ThreadPoolExecutor):
    """A pool that still works once the interpreter exits: then each call gets a thread, or the caller's.

    The client of a service reads a body to send, and asks for an address, in the pool of its event loop; the standard one
    refuses from the moment that the main thread ended.
    """

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See ``Executor.submit``."""
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            pass
        future: Future[Any] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:
                    future.set_exception(error)

        try:
            threading.Thread(target=run, daemon=True).start()
        except RuntimeError:
            run()
        return future


def keep_working(fs: Any) -> None:
    """Let the event loop that serves this file system, if one does, work until the process ends."""
    if not getattr(fs, "async_impl", False) or getattr(fs, "asynchronous", False):
        return
    loop = fs.loop

    def install() -> None:
        if not isinstance(getattr(loop, "_default_executor", None), UnendingPool):
            loop.set_default_executor(UnendingPool(thread_name_prefix="zstore-loop"))

    loop.call_soon_threadsafe(install)

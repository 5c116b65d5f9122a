"""From a URL to its fsspec file system, without a request; and URLs as they may be printed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from zstore.errors import MissingExtra

# scheme: (the package that serves it, our extra that brings it)
_EXTRAS = {
    "s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs"),
    "abfs": ("adlfs", "azure"), "abfss": ("adlfs", "azure"), "az": ("adlfs", "azure"),
}
_CONTAINERS = frozenset({"abfs", "abfss", "az", "wasb", "wasbs"})


def filesystem(url: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it; no request is made.

    MissingExtra when the scheme's package is not installed, ValueError when nobody knows the scheme.
    """
    from fsspec.core import url_to_fs

    for link in url.split("::"):
        _require(scheme_of(link))
    fs, path = url_to_fs(url, **dict(options or {}))
    return fs, path


def scheme_of(url: str) -> str:
    """``s3`` of ``s3://bucket/a``; of a chained URL, that of its first link."""
    return url.split("::")[0].split("://")[0]


def _require(scheme: str) -> None:
    # fsspec.registry, as an attribute, is a table of the same name; the module has to be imported from.
    from fsspec.registry import get_filesystem_class, known_implementations, registry

    if scheme not in known_implementations and scheme not in registry:
        raise ValueError(f"unknown URL scheme {scheme}://")
    try:
        get_filesystem_class(scheme)
    except ImportError as error:
        if scheme in _EXTRAS:
            package, extra = _EXTRAS[scheme]
            raise MissingExtra(f'{scheme}:// URLs need {package}: pip install "zstore[{extra}]"') from error
        package = known_implementations[scheme]["class"].split(".")[0]
        hint = f"the package {package}" if package != "fsspec" else "a package that is not installed"
        raise MissingExtra(f"{scheme}:// URLs need {hint} ({error})") from error


def printable(url: str) -> str:
    """The URL without user, password, query and fragment: what may stand in a message."""
    return "::".join(_without_credentials(link) for link in url.split("::"))


def _without_credentials(link: str) -> str:
    scheme, separator, rest = link.partition("://")
    if not separator:
        return link
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    user, at, machine = host.rpartition("@")
    # abfs://container@account names a container there, not a user.
    if at and (scheme not in _CONTAINERS or ":" in user):
        host = machine
    return f"{scheme}://{host}{slash}{path}".rstrip("/") if host or path else f"{scheme}://"


def without_secrets(text: str) -> str:
    """The message of a client, in which a URL may stand, without the user and the query of that URL."""
    return re.sub(r"(://)[^/@\s]+@", r"\1", re.sub(r"\?[^\s'\"]*", "", text))

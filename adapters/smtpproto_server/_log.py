# The log: each record says which connection it is about, for a formatter, a filter or a file of JSON.

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from smtpproto import Session

__all__ = ["LOG", "about", "about_event"]

LOG: Final = logging.getLogger("smtpproto")


def about(session: Session | None, remote: str = "") -> Mapping[str, str]:
    """The `extra` of a record that concerns a connection."""
    if session is None:
        return {"session_id": "", "remote_address": remote}
    return {"session_id": session.id, "remote_address": session.remote_address}


def about_event(args: tuple[Any, ...]) -> Mapping[str, str]:
    """The same for an event of the server's that came with `args`."""
    if not (args and isinstance(args[-1], dict)):
        return about(None)
    info = cast("dict[str, Any]", args[-1])
    extra = about(info.get("session"), info["remote_address"])
    return {**extra, "session_id": info["id"]} if "id" in info else extra


def _complete(record: logging.LogRecord) -> bool:
    """Whatever is logged here has both fields, so that a format that names them never fails."""
    for name, value in about(None).items():
        record.__dict__.setdefault(name, value)
    return True


LOG.addFilter(_complete)

# The log: each record says which connection it is about, for a formatter, a filter or a file of JSON.

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from smtpproto import Session

__all__ = ["LOG", "about"]

LOG: Final = logging.getLogger("smtpproto")


def about(session: Session | None, remote: str = "") -> Mapping[str, str]:
    """The `extra` of a record that concerns a connection."""
    if session is None:
        return {"session_id": "", "remote_address": remote}
    return {"session_id": session.id, "remote_address": session.remote_address}


def _complete(record: logging.LogRecord) -> bool:
    """Whatever is logged here has both fields, so that a format that names them never fails."""
    for name, value in about(None).items():
        record.__dict__.setdefault(name, value)
    return True


LOG.addFilter(_complete)

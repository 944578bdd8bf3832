# What the application did wrong.
#
# The peer can never make the library raise: its mistakes are answered with replies. Everything
# in this file is raised at the caller, at the moment of the mistake, and names both sides.

from __future__ import annotations

__all__ = ["ConfigurationError", "DecisionError", "LocalProtocolError", "SmtpProtoError"]


class SmtpProtoError(Exception):
    """The base of all errors of this library."""


class LocalProtocolError(SmtpProtoError):
    """The application used the core in a way the protocol's present state does not allow."""


class DecisionError(LocalProtocolError):
    """A decision came for a question that is not open, or one that it cannot answer."""


class ConfigurationError(SmtpProtoError, ValueError):
    """Two options, or an option and what this machine has, cannot be had together."""

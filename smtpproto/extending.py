"""For those who write mechanisms, options, lists of peers, or a server of their own.

It keeps the promises of `smtpproto`: what is named here is public.
"""

from __future__ import annotations

from smtpproto._engine import PENDING, Engine, Pending
from smtpproto._options import Check, option
from smtpproto._peers import Peers, canonical_address
from smtpproto._reply import single_line
from smtpproto._sasl import AuthRequest, CramMd5, Login, Mechanism, Plain, XOAuth2
from smtpproto._session import successor

__all__ = [
    "PENDING", "AuthRequest", "Check", "CramMd5", "Engine", "Login", "Mechanism", "Peers", "Pending", "Plain",
    "XOAuth2", "canonical_address", "option", "single_line", "successor",
]  # fmt: skip

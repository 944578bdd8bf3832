"""SMTP and LMTP, the server's side, as a pure state machine.

Octets in, events out, decisions back, octets out. `Connection` is where to begin; it has never
seen a socket, a clock, a thread or a log.
"""

from __future__ import annotations

from typing import Final

from smtpproto._address import Address, RecipientDsn
from smtpproto._body import IncomingMessage
from smtpproto._connection import Connection
from smtpproto._core import Signal
from smtpproto._decisions import ACCEPT, Accept, Challenge, Decision, Reject
from smtpproto._engine import OPTIONAL_QUESTIONS, PENDING, Engine, Pending
from smtpproto._errors import ConfigurationError, DecisionError, LocalProtocolError
from smtpproto._events import (
    AuthRequested,
    ClientConnected,
    CommandReceived,
    ConnectionClosed,
    ConnectRequested,
    DataAborted,
    DataChunk,
    DataFinished,
    DataRequested,
    DataStarted,
    Event,
    ExpandRequested,
    HelloReceived,
    HelpRequested,
    MailRequested,
    NeedsStartTLS,
    NeedsTLS,
    ProxyReceived,
    QuitReceived,
    RcptRequested,
    SecureRequested,
    TimerChanged,
    TimerKind,
    TransactionReset,
    VerifyRequested,
)
from smtpproto._options import Check, Options, option
from smtpproto._peers import Peers, canonical_address
from smtpproto._proxy import ProxyInfo
from smtpproto._reply import single_line
from smtpproto._sasl import (
    AuthRequest,
    CramMd5,
    CramMd5Credentials,
    Credentials,
    Login,
    LoginCredentials,
    Mechanism,
    Plain,
    PlainCredentials,
    XClientCredentials,
    XOAuth2,
    XOAuth2Credentials,
)
from smtpproto._session import Envelope, MessageDsn, Session, TlsDetails, TlsOptions
from smtpproto._state import State

__version__ = "0.1.0"

NEED_DATA: Final = Signal.NEED_DATA
PAUSED: Final = Signal.PAUSED
SEND: Final = Signal.SEND
CLOSED: Final = Signal.CLOSED

__all__ = [
    "ACCEPT", "CLOSED", "NEED_DATA", "OPTIONAL_QUESTIONS", "PAUSED", "PENDING", "SEND", "Accept",
    "Address", "AuthRequest", "AuthRequested", "Challenge", "Check", "ClientConnected",
    "CommandReceived", "ConfigurationError", "ConnectRequested", "Connection", "ConnectionClosed",
    "CramMd5", "CramMd5Credentials", "Credentials", "DataAborted", "DataChunk", "DataFinished",
    "DataRequested", "DataStarted", "Decision", "DecisionError", "Engine", "Envelope", "Event",
    "ExpandRequested", "HelloReceived", "HelpRequested", "IncomingMessage", "LocalProtocolError",
    "Login", "LoginCredentials", "MailRequested", "Mechanism", "MessageDsn", "NeedsStartTLS", "NeedsTLS",
    "Options", "Peers", "Pending", "Plain", "PlainCredentials", "ProxyInfo", "ProxyReceived",
    "QuitReceived", "RcptRequested", "RecipientDsn", "Reject", "SecureRequested", "Session", "Signal",
    "State", "TimerChanged", "TimerKind", "TlsDetails", "TlsOptions", "TransactionReset",
    "VerifyRequested", "XClientCredentials", "XOAuth2", "XOAuth2Credentials", "canonical_address",
    "option", "single_line",
]  # fmt: skip

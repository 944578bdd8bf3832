"""SMTP and LMTP, the server's side, as a pure state machine.

Octets in, events out, decisions back, octets out. `Connection` is where to begin; it has never
seen a socket, a clock, a thread or a log. Who writes mechanisms, options or a server finds more
in `smtpproto.extending`.
"""

from __future__ import annotations

from typing import Final

from smtpproto._address import Address, RecipientDsn
from smtpproto._body import IncomingMessage
from smtpproto._connection import Connection
from smtpproto._core import Signal
from smtpproto._decisions import ACCEPT, Accept, Challenge, Decision, Reject
from smtpproto._engine import OPTIONAL_QUESTIONS
from smtpproto._errors import ConfigurationError, DecisionError, LocalProtocolError, SmtpProtoError
from smtpproto._events import (
    AuthRequested,
    ClientConnected,
    CommandRequested,
    ConnectionClosed,
    ConnectRequested,
    DataAborted,
    DataChunk,
    DataFinished,
    DataRequested,
    DataStarted,
    Event,
    ExpandRequested,
    HelloRequested,
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
from smtpproto._options import ProtocolOptions
from smtpproto._proxy import ProxyInfo
from smtpproto._sasl import (
    CramMd5Credentials,
    Credentials,
    LoginCredentials,
    PlainCredentials,
    XClientCredentials,
    XOAuth2Credentials,
)
from smtpproto._session import Envelope, MessageDsn, Session
from smtpproto._state import State
from smtpproto._tls import TlsCipher, TlsDetails

__version__ = "0.1.0"

NEED_DATA: Final = Signal.NEED_DATA
PAUSED: Final = Signal.PAUSED
SEND: Final = Signal.SEND
CLOSED: Final = Signal.CLOSED

__all__ = [
    "ACCEPT", "CLOSED", "NEED_DATA", "OPTIONAL_QUESTIONS", "PAUSED", "SEND", "Accept", "Address",
    "AuthRequested", "Challenge", "ClientConnected", "CommandRequested", "ConfigurationError",
    "ConnectRequested", "Connection", "ConnectionClosed", "CramMd5Credentials", "Credentials", "DataAborted",
    "DataChunk", "DataFinished", "DataRequested", "DataStarted", "Decision", "DecisionError", "Envelope",
    "Event", "ExpandRequested", "HelloRequested", "HelpRequested", "IncomingMessage", "LocalProtocolError",
    "LoginCredentials", "MailRequested", "MessageDsn", "NeedsStartTLS", "NeedsTLS", "PlainCredentials",
    "ProtocolOptions", "ProxyInfo", "ProxyReceived", "QuitReceived", "RcptRequested", "RecipientDsn",
    "Reject", "SecureRequested", "Session", "Signal", "SmtpProtoError", "State", "TimerChanged", "TimerKind",
    "TlsCipher", "TlsDetails", "TransactionReset", "VerifyRequested", "XClientCredentials",
    "XOAuth2Credentials",
]  # fmt: skip

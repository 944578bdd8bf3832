# A second server, to compare the core with: the whole input at once, straight from the specification.
#
# It shares no code with the core and is not clever: where the core keeps states, this reads on to
# the next line it needs and gives up when there is none. Whatever octets come, it does not raise.
# Left out: PROXY, implicit TLS, timers, shutdown, optional questions, mechanisms of one's own, lists
# of hosts in `use_xclient` and `use_xforward`, `Address.decoded`, folding of long replies.
#
# "…" at the end of a predicted reply stands for a text that the specification leaves open. `open:`
# marks what it does not decide at all: there the model does as the core does.

from __future__ import annotations

import base64
import contextlib
import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Args = dict[str, str | bool]
    Decide = Callable[[str, int], "Say | list[Say]"]

__all__ = ["Message", "Prediction", "Say", "agrees", "predict"]


class Say(NamedTuple):
    """A decision: yes or no, and what the application adds. `login` False: yes, but nobody is logged in."""

    yes: bool = True
    code: int | None = None
    enhanced: str | None = None
    text: str | None = None
    login: bool = True


class Message(NamedTuple):
    """A message whose end was seen: what the application was handed."""

    mail_from: str
    args: Args
    facts: dict[str, Any]
    """body_type, smtp_utf8, require_tls, declared_size, ret, envid"""
    rcpt_to: list[tuple[str, Args, list[str] | None, str | None]]
    """address, args, notify, orcpt"""
    data: bytes
    byte_length: int
    size_exceeded: bool
    refusal: str | None
    """The code with which the server refuses whatever the application decides."""


class Prediction(NamedTuple):
    """What a session comes to. The lines of one reply are joined by LF; `closed`: by the server."""

    replies: list[str]
    messages: list[Message]
    closed: bool
    session: dict[str, Any]


def predict(
    segments: Sequence[bytes],
    options: Mapping[str, Any],
    decide: Decide = lambda _kind, _ordinal: Say(),
    *,
    tls: bool = True,
    peer: tuple[str, int] = ("192.0.2.1", 4321),
) -> Prediction:
    """What the server answers, and what it hands over.

    `segments` are sent one after another, each when everything before it was answered. `options` are
    the server's, by name; `name` is needed. `decide` gets "connect", "secure", "auth", "mail", "rcpt"
    or "data" and the number of the question, from 0 over all kinds; of a list (for "data" in LMTP)
    each recipient gets the next, again and again. `tls` says whether a handshake could be made.
    """
    server = _Server(segments, options, decide, tls=tls, peer=peer)
    closed = False
    try:
        server.run()
    except _Over:
        pass
    except _Closed:
        closed = True
    return Prediction(server.replies, server.messages, closed, server.facts())


def agrees(replies: Sequence[str], predicted: Sequence[str]) -> bool:
    """Whether these are the replies predicted."""
    return len(replies) == len(predicted) and all(
        said.startswith(text[:-1]) if text.endswith("…") else said == text
        for said, text in zip(replies, predicted, strict=True)
    )


# --- grammar (§14.1, RFC 5321 §4.1.2) -------------------------------------------------------------

_WIDE = r"\x80-\U0010ffff"
_ATOM = rf"[a-zA-Z0-9!#$%&'*+/=?^_`{{|}}~{_WIDE}-]+"
_LOCAL = rf'(?:{_ATOM}(?:\.{_ATOM})*|"(?:[ !#-\[\]-~{_WIDE}]|\\[ -~])*")'
_LABEL = rf"(?!-)[a-zA-Z0-9{_WIDE}-]+(?<!-)"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_PATH: Final = re.compile(
    rf"<(?P<route>(?:@{_DOMAIN}(?:,@{_DOMAIN})*:)?)(?P<local>{_LOCAL})@(?P<domain>{_DOMAIN}|\[[^]]*\])>"
)
_LENIENT: Final = re.compile(r"<(?P<route>)(?P<local>[^][@<> ]+)@(?P<domain>[^][@<> ]+|\[[^]]*\])>")
_EMPTY: Final = {"FROM": re.compile("<>"), "TO": re.compile("<postmaster>", re.IGNORECASE | re.ASCII)}
_NEVER: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u2060\ufeff\ud800-\udfff]")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_PARAMETER: Final = re.compile(rf"([a-zA-Z0-9][a-zA-Z0-9-]*)(?:=([!-<>-~{_WIDE}]+))?")
_ENHANCED: Final = re.compile(r"\A([245]\.[0-9]{1,3}\.[0-9]{1,3}) ")
_BAD_OCTET: Final = re.compile(rb"[\x00-\x08\n-\x1f\x7f]")
_FIELD_NAME: Final = re.compile(r"[!-9;-~]+:")
_HTTP: Final = re.compile(r"(?:OPTIONS|GET|HEAD|POST|PUT|PATCH|DELETE|TRACE|CONNECT|PRI) [^ ]+ HTTP/[0-9.]+")

_KNOWN = {"HELO", "EHLO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT", "VRFY", "HELP", "STARTTLS", "AUTH",
          "XCLIENT", "XFORWARD"}  # fmt: skip
_FIXED = {"NOOP": "250 2.0.0 OK", "HELP": "214 2.0.0 See https://tools.ietf.org/html/rfc5321 for details",
          "VRFY": "252 2.1.5 Try to send something. No promises though"}  # fmt: skip
_UNIMPLEMENTED = {"EXPN", "TURN", "ETRN", "SEND", "SOML", "SAML", "BDAT"}
_XCLIENT = ["NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN"]
_XFORWARD = ["NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE"]
_COUNTERS = {  # §11.4
    "unknown": ("max_unknown_commands", 10, "unrecognized commands"),
    "unauthenticated": ("max_allowed_unauthenticated_commands", 10, "unauthenticated commands"),
    "failures": ("max_auth_attempts", 3, "failed authentication attempts"),
}

# --- replies to what the application decides (§3.2, §13.2) -----------------------------------------

_YES = {"mail": "250 2.1.0 Accepted", "rcpt": "250 2.1.5 Accepted",
        "auth": "235 2.7.0 Authentication successful"}  # fmt: skip
_NO = {"connect": "554", "secure": "554", "auth": "535", "mail": "550", "rcpt": "550", "data": "450"}
_IN_PLACE = {("data", "550"): "5.7.1", ("secure", "554"): "5.7.1"}
_CODES = {"421": "4.3.2", "450": "4.2.1", "451": "4.3.0", "452": "4.2.2", "454": "4.7.0", "500": "5.5.2",
          "501": "5.5.4", "504": "5.5.4", "555": "5.5.4", "502": "5.5.1", "503": "5.5.1", "521": "5.3.2",
          "530": "5.7.0", "535": "5.7.8", "538": "5.7.11", "550": "5.1.1", "551": "5.1.6", "552": "5.2.2",
          "553": "5.1.3", "554": "5.6.0", "556": "5.1.10"}  # fmt: skip
_TEXTS = {"421": "Service not available, closing connection", "450": "Requested action not taken",
          "550": "Requested action not taken", "451": "Error: internal error, please try again later",
          "452": "Insufficient resources", "535": "Error: Authentication credentials invalid",
          "554": "Transaction failed"}  # fmt: skip


class _Over(Exception):  # noqa: N818 - no error: the input is used up
    pass


class _Closed(Exception):  # noqa: N818 - no error: the server has closed
    pass


class _Refused(Exception):  # noqa: N818 - no error of ours: the reply to the client's
    pass


class _BadLine(_Refused):
    """A fault of the line itself (§5.1)."""


class _Server:
    def __init__(
        self,
        segments: Sequence[bytes],
        options: Mapping[str, Any],
        decide: Decide,
        *,
        tls: bool,
        peer: tuple[str, int],
    ) -> None:
        self.input = b"".join(segments)
        self.ends = {sum(map(len, segments[:i])) for i in range(1, len(segments) + 1)}
        self.at = 0
        self.option: Callable[..., Any] = options.get
        self.decide = decide
        self.asked = 0
        self.replies: list[str] = []
        self.messages: list[Message] = []
        self.lmtp = bool(options.get("lmtp"))
        hidden = options.get("hide_enhancedstatuscodes")
        self.coded = self.lmtp if hidden is None else not hidden
        self.methods: list[str] = [
            name.strip().upper() for name in options.get("auth_methods", ("PLAIN", "LOGIN"))
        ]
        self.disabled = {name.upper() for name in options.get("disabled_commands", ())}
        self.known = ({*_KNOWN, "LHLO"} if self.lmtp else _KNOWN) - self.disabled
        if not self.methods:
            self.known.discard("AUTH")
        self.login_needed = not options.get("auth_optional") and "AUTH" in self.known
        self.tls = tls
        self.secure = bool(options.get("tls_upstream"))
        self.peer, self.port = peer
        self.host = f"[{peer[0]}]"
        self.xclient_done = False
        self.counted = dict.fromkeys(_COUNTERS, 0)
        self.transaction = 1
        self.xclient: dict[str, str | None] = {}
        self.forget()

    def forget(self) -> None:
        """What STARTTLS and XCLIENT begin anew."""
        self.hello = self.appears_as = ""
        self.user: str | None = None
        self.reset()

    def reset(self) -> None:
        self.mail: tuple[str, Args] | None = None
        self.rcpt: list[tuple[str, Args]] = []
        self.utf8 = False
        self.xforward: dict[str, str | None] = {}

    def facts(self) -> dict[str, Any]:
        word = "LMTP" if self.lmtp else "SMTP" if self.hello in {"", "HELO"} else "ESMTP"
        if word != "SMTP":
            word += "S" * self.secure + "A" * (self.user is not None)
        return {
            "opening_command": self.hello, "host_name_appears_as": self.appears_as, "user": self.user,
            "secure": self.secure, "transaction": self.transaction, "transmission_type": word,
            "remote_address": self.peer, "remote_port": self.port, "client_hostname": self.host,
            "xclient": self.xclient, "xforward": self.xforward,
        }  # fmt: skip

    # --- saying, counting, asking ---

    def say(self, reply: str) -> None:
        """One reply of the server's own, written with its enhanced code."""
        self.replies.append(reply if self.coded else reply[:4] + _ENHANCED.sub("", reply[4:]))

    def close(self, reply: str) -> NoReturn:
        self.say(reply)
        raise _Closed

    def count(self, what: str) -> None:
        option, default, text = _COUNTERS[what]
        self.counted[what] += 1
        if self.counted[what] == (self.option(option, default) or None):
            self.close(f"421 4.7.0 Error: too many {text}")

    def count_unauthenticated(self) -> None:
        if self.login_needed and self.user is None:
            self.count("unauthenticated")

    def ask(self, kind: str) -> Say:
        """What the application decides."""
        return self.ask_each(kind)[0]

    def ask_each(self, kind: str) -> list[Say]:
        said = self.decide(kind, self.asked)
        self.asked += 1
        return said if isinstance(said, list) else [said]

    def answer(self, kind: str, said: Say, *, named: bool = True) -> None:
        """The reply to a decision; 421 closes in every place (§1.2)."""
        delivered = f"250 2.6.0 OK: message {'accepted' if self.lmtp else 'queued'}"
        default = _YES.get(kind, delivered).split(" ", 2)
        code = str(said.code or (default[0] if said.yes else _NO[kind]))
        in_front = _ENHANCED.match(said.text or "")
        if in_front and not said.enhanced and in_front[1][0] == code[0]:
            said = said._replace(enhanced=in_front[1], text=(said.text or "")[in_front.end() :])
        if said.yes:
            enhanced, text = said.enhanced or default[1], said.text or default[2]
        else:
            enhanced = said.enhanced or _IN_PLACE.get((kind, code)) or _CODES.get(code, f"{code[0]}.0.0")
            nameless = "Temporary failure" if code[0] == "4" else "Request refused"
            text = said.text or _TEXTS.get(code, nameless)
        prefix = f"{enhanced} " if named and self.coded else ""
        never = _CONTROL if self.utf8 else re.compile("[^ -~]")
        self.lines(code, [prefix + never.sub("?", line) for line in re.split("\r\n|\r|\n", text)])
        if code == "421":
            raise _Closed

    def lines(self, code: str, lines: Sequence[str]) -> None:
        marks = "-" * (len(lines) - 1) + " "
        self.replies.append("\n".join(code + mark + line for mark, line in zip(marks, lines, strict=True)))

    # --- lines (§5.1) ---

    def line(self, *, auth: bool = False) -> str:
        """The next line without its end; trailing blanks and TABs are dropped."""
        if self.at == len(self.input):
            raise _Over
        end = self.input.find(b"\r\n", self.at)
        whole = end >= 0
        octets = self.input[self.at : end if whole else None]
        self.at = end + 2 if whole else len(self.input)
        auth = auth or octets[:5].upper() == b"AUTH "  # open: also where AUTH is unknown
        limit = self.option("max_auth_line_length", 12288) if auth else self.option("max_line_length", 4096)
        length = len(octets) + 2 * whole
        self.endless = length > 8 * limit
        seen = octets[:limit] if whole else octets[:limit].removesuffix(b"\r")
        # open: whether octets are UTF-8 is asked of whole lines only
        if _BAD_OCTET.search(seen) or (whole and length <= limit and not _is_utf8(octets)):
            raise _BadLine("500 5.5.2 Error: invalid characters in command line")
        if length > limit:
            raise _BadLine("500 5.5.6 …" if auth else "500 5.5.2 Error: Line too long")
        if not whole:
            raise _Over
        text = octets.decode().rstrip(" \t")
        if _HTTP.fullmatch(text):
            self.close("421 4.7.0 HTTP requests not allowed")
        return text

    def stop_if_endless(self) -> None:
        if self.endless:
            self.close("421 4.7.0 Error: Command line too long")

    # --- commands (§5) ---

    def run(self) -> None:
        greeted = self.ask("connect")
        if not greeted.yes:
            self.answer("connect", greeted, named=False)
            raise _Closed
        self.greet()
        while True:
            try:
                self.command(self.line())
            except _BadLine as fault:
                self.unknown(str(fault))
                self.stop_if_endless()
            except _Refused as refused:
                self.say(str(refused))

    def greet(self) -> None:
        word = "LMTP" if self.lmtp else "ESMTP"
        self.replies.append(f"220 {self.option('name')} {word} {self.option('banner', '')}".rstrip(" "))

    def unknown(self, reply: str) -> None:
        self.count("unknown")
        self.say(reply)

    def command(self, line: str) -> None:
        """The gates of §5.2, then the command."""
        word, _, argument = line.partition(" ")
        verb = word.upper() if word.isascii() else word
        if _FIELD_NAME.fullmatch(word):
            self.close("421 4.7.0 Error: not an SMTP command")
        # core: replies to HELO and EHLO that are disabled, or one too many, carry enhanced codes there.
        # open: whether "EHLO hostname (verb as sent)" keeps the case of what was sent
        if self.lmtp and verb in {"HELO", "EHLO"}:
            self.unknown(f"500 Error: {verb} not allowed in LMTP server")
        elif verb in _UNIMPLEMENTED - self.disabled:
            self.unknown("502 5.5.1 Error: command not implemented")
        elif verb not in self.known:
            self.unknown("500 5.5.2 Error: command not recognized")
        elif verb == "AUTH":
            self.auth(argument)
        else:
            if verb != "QUIT":
                self.count_unauthenticated()
            self.gates(verb)
            self.obey(verb, argument)

    def obey(self, verb: str, argument: str) -> None:
        taking = {"MAIL": self.take_mail, "RCPT": self.take_rcpt}
        plain = {"DATA": self.data, "RSET": self.rset, "STARTTLS": self.starttls, "QUIT": self.quit}
        if verb in taking:
            taking[verb](argument)
        elif verb in {"HELO", "EHLO", "LHLO"}:
            self.say_hello(verb, argument)
        elif verb in {"XCLIENT", "XFORWARD"}:
            self.take_attributes(verb, argument)
        elif verb == "VRFY" and not argument.strip(" "):
            raise _Refused("501 5.5.4 Error: syntax: VRFY string")
        elif verb in _FIXED:
            self.say(_FIXED[verb])
        elif argument:
            raise _Refused(f"501 5.5.4 Error: syntax: {verb}")
        else:
            plain[verb]()

    def gates(self, verb: str) -> None:
        if verb in {"MAIL", "RCPT", "DATA", "AUTH"} and not self.hello:
            raise _Refused(f"503 5.5.1 Error: send {'LHLO' if self.lmtp else 'HELO/EHLO'} first")
        if verb in {"MAIL", "AUTH"} and self.option("needs_upgrade") and not self.secure:
            raise _Refused("530 5.7.0 Must issue a STARTTLS command first")
        if verb in {"MAIL", "RCPT", "DATA"} and self.login_needed and self.user is None:
            text = self.option("auth_required_message", "Error: authentication Required")
            raise _Refused(f"530 5.7.0 {text}")

    def rset(self) -> None:
        self.reset()
        self.say("250 2.0.0 Flushed")

    def quit(self) -> None:
        self.close("221 2.0.0 Bye")

    def say_hello(self, verb: str, argument: str) -> None:
        if not re.fullmatch("[!-~]{1,255}", argument):
            raise _Refused(f"501 Error: syntax: {verb} hostname")
        self.hello, self.appears_as = verb, argument.lower()
        self.reset()
        text = self.option("helo_response") or "%s Nice to meet you, %s"
        text = (
            text.replace("%s", self.option("name"), 1)
            .replace("%s", self.host, 1)
            .replace("%s", "")
            .rstrip(" ")
        )
        self.lines("250", [text] if verb == "HELO" else [text, *self.offers()])

    def offers(self) -> list[str]:
        """The lines of §2.3."""
        option, on = self.option, self.known
        clear = not self.secure
        may_login = self.user is None and "AUTH" in on and not (clear and option("needs_upgrade"))
        trusted = not self.xclient_done
        size = option("size")
        offers = [
            ("PIPELINING", not option("hide_pipelining")),
            ("8BITMIME", not option("hide_8bitmime")),
            ("SMTPUTF8", not option("hide_smtputf8")),
            ("ENHANCEDSTATUSCODES", self.coded),
            ("DSN", option("hide_dsn") is False),
            (" ".join(["AUTH", *self.methods]), may_login and (self.secure or option("allow_insecure_auth"))),
            ("STARTTLS", self.tls and clear and "STARTTLS" in on and not option("hide_starttls")),
            ("REQUIRETLS", self.secure and option("hide_requiretls") is False),
            (f"SIZE {size}", size and not option("hide_size")),
            (" ".join(["XCLIENT", *_XCLIENT]), trusted and "XCLIENT" in on and option("use_xclient")),
            (" ".join(["XFORWARD", *_XFORWARD]), trusted and "XFORWARD" in on and option("use_xforward")),
        ]
        return [line for line, offered in offers if offered] + list(option("ehlo_keywords", ()))

    # --- MAIL and RCPT (§5.4, §5.5, §6) ---

    def path(self, text: str, word: str) -> tuple[str, str]:
        """The address of `FROM:<path>`, and what stands behind it."""
        lenient = bool(self.option("lenient_addresses"))
        start = re.match(rf"{word}{' *' if lenient else ''}: *", text, re.IGNORECASE | re.ASCII)
        at = start.end() if start else len(text)
        if empty := _EMPTY[word].match(text, at):
            return empty[0][1:-1], text[empty.end() :]
        for form in [_PATH, _LENIENT][: 1 + lenient]:
            found = form.match(text, at)
            address = found and not _NEVER.search(found[0]) and _mailbox(found, lenient=form is _LENIENT)
            if found and address:
                return address, text[found.end() :]
        raise _Refused("501 5.1.7 Error: Bad sender address syntax" if word == "FROM"
                       else "501 5.1.3 Error: Bad recipient address syntax")  # fmt: skip

    def parameters(self, rest: str, known: Iterable[str], *, utf8: bool) -> Args:
        args: Args = {}
        if rest and self.hello == "HELO":
            raise _Refused("555 5.5.4 Error: unsupported parameter")
        for word in rest.split(" ") if rest[:1] in {"", " "} else ["="]:
            found = _PARAMETER.fullmatch(word)
            value = (found and found[2]) or ""
            if not word:
                continue
            if not found or found[1].upper() in args or _NEVER.search(value) or not (utf8 or value.isascii()):
                raise _Refused("501 5.5.4 …")
            args[found[1].upper()] = value or True
        if not set(args) <= set(known) and self.option("unknown_parameters", "reject") == "reject":
            raise _Refused("555 5.5.4 Error: unsupported parameter")
        return args

    def take_mail(self, text: str) -> None:
        address, rest = self.path(text, "FROM")
        if self.mail is not None:
            raise _Refused("503 5.5.1 Error: nested MAIL command")
        known = ("SIZE", "BODY", "SMTPUTF8", "REQUIRETLS", "RET", "ENVID", "AUTH")
        utf8 = bool(re.search(r" SMTPUTF8(?:[ =]|\Z)", rest, re.IGNORECASE | re.ASCII))
        args = self.parameters(rest, known, utf8=utf8)
        flag = "parameter. This flag does not accept a value"
        self.check(args, "SIZE", r"[0-9]{1,20}", "Invalid SIZE parameter value")
        self.check(args, "BODY", "7BIT|8BITMIME", "Invalid BODY parameter value. Must be 7BIT or 8BITMIME")
        self.check(args, "SMTPUTF8", None, f"Invalid SMTPUTF8 {flag}")
        if "REQUIRETLS" in args and not self.secure:
            raise _Refused("530 5.7.0 REQUIRETLS not permitted on non-TLS connections")
        self.check(args, "REQUIRETLS", None, f"Invalid REQUIRETLS {flag}")
        self.check(args, "RET", "FULL|HDRS", "Invalid RET parameter value. Must be FULL or HDRS")
        self.check(args, "ENVID", r"(?=.{1,100}\Z)([!-*,-~]|\+[2-6][0-9A-F]|\+7[0-9A-E])+",
                   "Invalid ENVID parameter value")  # fmt: skip
        if "ENVID" in args:
            args["ENVID"] = _from_xtext(str(args["ENVID"])) or ""
        if "AUTH" in args:
            decoded = _from_xtext("" if args["AUTH"] is True else str(args["AUTH"]))
            if decoded != "<>" and not (decoded and self.is_mailbox(decoded) and (utf8 or decoded.isascii())):
                raise _Refused("501 5.5.4 Invalid AUTH parameter value")
            args["AUTH"] = decoded
        self.check_ascii(address, utf8=utf8)
        size = self.option("size")
        if size and int(args.get("SIZE", 0)) > size:
            raise _Refused(f"552 5.3.4 Error: message exceeds fixed maximum message size {size}")
        self.utf8 = utf8
        answer = self.ask("mail")
        if answer.yes:
            self.mail = (address, args)
        self.answer("mail", answer)
        self.utf8 = utf8 and answer.yes

    def check(self, args: Args, keyword: str, form: str | None, text: str) -> None:
        value = args.get(keyword, True)
        wrong = (
            value is not True
            if form is None
            else not re.fullmatch(form, str(value), re.IGNORECASE | re.ASCII)
        )
        if keyword in args and (wrong or (form and value is True)):
            raise _Refused(f"501 5.5.4 {text}")

    def check_ascii(self, address: str, *, utf8: bool) -> None:
        if self.option("require_smtputf8", True) and not (utf8 or address.isascii()):  # noqa: FBT003 - §2.4
            raise _Refused("553 5.6.7 Error: SMTPUTF8 required for this address")

    def is_mailbox(self, text: str) -> bool:
        with contextlib.suppress(_Refused):
            return text[:1] != "@" and self.path(f"FROM:<{text or '@'}>", "FROM")[1] == ""
        return False

    def take_rcpt(self, text: str) -> None:
        address, rest = self.path(text, "TO")
        if self.mail is None:
            raise _Refused("503 5.5.1 Error: need MAIL command")
        if len(self.rcpt) == self.option("max_recipients", 1000):
            raise _Refused("452 4.5.3 Error: too many recipients")
        args = self.parameters(rest, ("NOTIFY", "ORCPT"), utf8=self.utf8)
        words = str(args.get("NOTIFY", "NEVER")).upper().split(",")
        known = set(words) <= {"NEVER", "SUCCESS", "FAILURE", "DELAY"}
        if known and "NEVER" in words and len(words) > 1:
            raise _Refused("501 5.5.4 Error: NOTIFY=NEVER cannot be combined with other values")
        if not known or len(set(words)) < len(words):
            raise _Refused("501 5.5.4 Error: NOTIFY parameter must be NEVER, SUCCESS, FAILURE, or DELAY")
        if "ORCPT" in args:
            sent = str(args["ORCPT"])
            kind, _, value = sent.partition(";")
            decoded = _from_utf8_xtext(value) if kind.lower() == "utf-8" else _from_xtext(value)
            wide = kind.lower() != "utf-8" and not self.utf8 and not (decoded or "").isascii()
            good = decoded and not wide and re.fullmatch(_ATOM, kind) and len(sent.encode()) <= 500  # noqa: PLR2004 - octets, §6
            if not good or (kind.lower() == "utf-8" and not self.is_mailbox(decoded or "")):  # RFC 6533 §3
                raise _Refused("501 5.5.4 Invalid ORCPT parameter value")
            args["ORCPT"] = f"{kind};{decoded}"
        self.check_ascii(address, utf8=self.utf8)
        answer = self.ask("rcpt")
        if answer.yes:
            self.rcpt.append((address, args))
        self.answer("rcpt", answer)

    # --- DATA (§5.8, §5.9, §10, §11.1) ---

    def data(self) -> None:
        if not self.rcpt:
            raise _Refused("503 5.5.1 Error: need RCPT command")
        self.say("354 End data with <CR><LF>.<CR><LF>")
        end = (b"\r\n" + self.input[self.at :]).find(b"\r\n.\r\n")
        if end < 0:
            raise _Over
        sent = self.input[self.at : self.at + end]  # with the CRLF before the dot
        self.at += end + 3
        size, enforced = self.option("size"), self.option("enforce_size", True)  # noqa: FBT003 - §2.4
        length = len(_unstuffed(sent))
        exceeded = bool(size and length > size)
        bare = re.search(rb"\r(?!\n)|(?<!\r)\n", sent)
        refusal = None
        if exceeded and enforced:
            refusal = f"552 5.3.4 Error: message exceeds fixed maximum message size {size}"
        if bare and self.option("bare_newlines") != "accept":
            refusal = "550 5.6.0 Error: message contains bare newline characters"
            sent = sent[: bare.start()]
        content = _unstuffed(sent)[: size if enforced else None]
        self.messages.append(self.message(content, length, exceeded=exceeded, refusal=refusal))
        each = self.ask_each("data")
        try:
            for i in range(len(self.rcpt) if self.lmtp else 1):
                if refusal:
                    self.say(refusal)
                else:
                    self.answer("data", each[i % len(each)])
        finally:
            self.transaction += 1
            self.counted["unknown"] = 0
            self.reset()

    def message(self, data: bytes, length: int, *, exceeded: bool, refusal: str | None) -> Message:
        address, args = self.mail or ("", {})
        facts = {
            "body_type": str(args.get("BODY", "7bit")).lower(), "smtp_utf8": self.utf8,
            "require_tls": "REQUIRETLS" in args,
            "declared_size": int(args["SIZE"]) if "SIZE" in args else None,
            "ret": str(args["RET"]).upper() if "RET" in args else None, "envid": args.get("ENVID"),
        }  # fmt: skip
        rcpt_to = [
            (
                address, args, str(args["NOTIFY"]).upper().split(",") if "NOTIFY" in args else None,
                str(args["ORCPT"]) if "ORCPT" in args else None,
            )
            for address, args in self.rcpt
        ]  # fmt: skip
        return Message(address, args, facts, rcpt_to, data, length, exceeded, refusal and refusal[:3])

    # --- AUTH (§7) ---

    def auth(self, argument: str) -> None:
        words = [word for word in argument.split(" ") if word]
        try:
            self.gates("AUTH")
            method = self.auth_begins(words)
        except _Refused:
            self.count_unauthenticated()
            raise
        try:
            initial = _octets("" if words[1] == "=" else words[1]) if words[1:] else None
            name = {"PLAIN": self.plain, "LOGIN": self.login, "CRAM-MD5": self.cram, "XOAUTH2": self.xoauth2}[
                method
            ](initial)
            said = self.ask("auth")
            if said.yes and said.login:
                self.user = name
                return self.answer("auth", said)
            code = str(said.code or 535)
            if code[0] == "4":
                if code != "421":
                    self.count_unauthenticated()
                return self.answer("auth", said)
            if method == "XOAUTH2" and code == "535":
                self.say("334 e30=")
                self.line(auth=True)  # open: §5.1 has its own reply to a bad one, §7.2 "whatever it is"
                said = said._replace(text="Error: Username and Password not accepted") if said.yes else said
            self.count("failures")
            return self.answer("auth", said._replace(yes=False))
        except _BadLine as fault:
            self.count("unknown")  # open: of two counters that are full, this one speaks
            self.count("failures")
            self.say(str(fault))
            self.stop_if_endless()
        except _Refused:
            self.count("failures")
            raise
        return None

    def auth_begins(self, words: list[str]) -> str:
        """The checks of §7.1, before the exchange has begun."""
        if self.hello == "HELO":
            raise _Refused("503 5.5.1 Error: send EHLO first")
        if self.user is not None:
            raise _Refused("503 5.5.1 Error: No identity changes permitted")
        if self.mail is not None:
            raise _Refused("503 5.5.1 Error: Mail transaction in progress")
        if not words:
            raise _Refused("501 5.5.4 Error: syntax: AUTH mechanism")
        method = words[0].upper()
        if method not in self.methods:
            raise _Refused("504 5.5.4 Error: Unrecognized authentication type")
        if not self.secure and not self.option("allow_insecure_auth"):
            raise _Refused("538 5.7.11 Error: Must issue a STARTTLS command first")
        if words[2:]:
            raise _Refused("501 5.5.4 Error: syntax: AUTH …")
        if method == "CRAM-MD5" and words[1:]:
            raise _Refused("501 5.7.0 Error: syntax: AUTH CRAM-MD5")
        return method

    def challenged(self, challenge: str) -> bytes:
        self.say(f"334 {challenge}")
        line = self.line(auth=True)
        if line == "*":
            raise _Refused("501 5.7.0 Authentication aborted")
        return _octets(line)

    def plain(self, response: bytes | None) -> str:
        parts = _texts((self.challenged("") if response is None else response).split(b"\0"))
        if len(parts) != 3 or parts[0] + parts[1] == "":  # noqa: PLR2004 - authzid, authcid, password
            raise _Refused("501 5.5.2 Error: invalid userdata")
        return parts[1] or parts[0]

    def login(self, response: bytes | None) -> str:
        name = self.challenged("VXNlcm5hbWU6") if response is None else response
        if not name:
            raise _Refused("501 5.5.2 Error: missing username")
        return _texts([name])[0] + _texts([self.challenged("UGFzc3dvcmQ6")])[0][:0]

    def cram(self, _response: bytes | None) -> str:
        user, _, digest = self.challenged("…").rpartition(b" ")
        if not user or not re.fullmatch(rb"[0-9a-fA-F]{32}", digest):
            raise _Refused("501 5.5.2 Error: invalid userdata")
        return _texts([user])[0]

    def xoauth2(self, response: bytes | None) -> str:
        sent = self.challenged("") if response is None else response
        # open: the order of the fields, others beside them, what ends them, the case of "Bearer"
        user = re.search(rb"(?:\A|\x01)user=([^\x01]+)\x01", sent)
        token = re.search(rb"(?:\A|\x01)auth=(?i:bearer) ([^\x01]+)\x01", sent)
        if not user or not token:
            raise _Refused("501 5.5.2 Error: invalid userdata")
        return _texts([user[1], token[1]])[0]

    # --- STARTTLS, XCLIENT, XFORWARD (§8, §9) ---

    def starttls(self) -> None:
        if self.secure:
            raise _Refused("503 5.5.1 Error: TLS already active")
        if not self.tls:
            raise _Refused("454 4.7.0 TLS not available due to temporary reason")
        if self.at not in self.ends:
            self.close("554 5.5.0 Error: data after STARTTLS")
        self.say("220 2.0.0 Ready to start TLS")
        self.secure = True
        self.xclient = {}
        self.forget()
        answer = self.ask("secure")
        if not answer.yes:
            self.answer("secure", answer)
            raise _Closed

    def take_attributes(self, verb: str, argument: str) -> None:
        if not self.option(f"use_{verb.lower()}") or self.xclient_done:
            raise _Refused("550 5.7.0 Error: Not allowed")
        if self.mail is not None:
            raise _Refused("503 5.5.1 Error: Mail transaction in progress")
        values = _attributes(argument, _XCLIENT if verb == "XCLIENT" else _XFORWARD)
        if verb == "XFORWARD":
            self.xforward = dict.fromkeys(_XFORWARD) | self.xforward | values  # row C343
            self.say("250 2.0.0 OK")
            return
        self.forget()
        self.xclient |= values
        if address := values.get("ADDR"):
            self.peer, self.host = address, f"[{address}]"
            self.xclient_done = True  # open: not if it is unavailable
        if "NAME" in values:
            self.host = (values["NAME"] or f"[{self.peer}]").lower()
        if port := values.get("PORT"):
            self.port = int(port)
        if name := values.get("LOGIN"):
            self.xclient_login(name)
        self.greet()

    def xclient_login(self, name: str) -> None:
        answer = self.ask("auth")
        if answer.yes and answer.login:
            self.user = name
            return
        text = _ENHANCED.sub("", answer.text or "Authentication credentials invalid")
        refused = Say(yes=False, code=550, enhanced="5.7.8", text=text)
        # open: a temporary refusal keeps its code
        self.answer("auth", answer if str(answer.code)[0] == "4" else refused)
        raise _Closed


def _mailbox(found: re.Match[str], *, lenient: bool) -> str:
    """The mailbox of a path as it is kept, "" if it breaks a rule that has no form."""
    local, domain = found["local"], found["domain"]
    kept = _literal(domain) if domain.startswith("[") else domain
    if lenient:  # open: in place of a domain a literal is still one
        return kept and f"{local}@{kept}"
    names = [*found["route"][1:-1].split(",@"), *([] if kept.startswith("[") else [domain])]
    longest = max((len(label.encode()) for name in names for label in name.split(".")), default=0)
    if not kept or longest > 63 or len(f"{local}@{domain}".encode()) > 254:  # noqa: PLR2004 - octets, §14.1
        return ""
    return f"{local}@{kept}"


def _literal(domain: str) -> str:
    """The canonical form of an address literal, "" if it is none."""
    tag, rest = domain[1:6], domain[6:-1]
    with contextlib.suppress(ValueError):
        if tag.isascii() and tag.upper() == "IPV6:" and "%" not in rest:
            address = ipaddress.IPv6Address(rest)
            mapped = address.ipv4_mapped  # RFC 5952 §5
            return f"[IPv6:{f'::ffff:{mapped}' if mapped else address}]"
        return f"[{ipaddress.IPv4Address(domain[1:-1])}]"
    return ""


def _unstuffed(sent: bytes) -> bytes:
    return re.sub(rb"(\A|\r\n)\.", rb"\1", sent)


def _is_utf8(octets: bytes) -> bool:
    with contextlib.suppress(ValueError):
        octets.decode()
        return True
    return False


def _octets(text: str) -> bytes:
    """What a text in canonical base64 stands for."""
    with contextlib.suppress(ValueError):
        octets = base64.b64decode(text, validate=True)
        if base64.b64encode(octets).decode() == text:
            return octets
    raise _Refused("501 5.5.2 Error: invalid base64")


def _texts(parts: list[bytes]) -> list[str]:
    texts = [part.decode() for part in parts if len(part) <= 255 and _is_utf8(part)]  # noqa: PLR2004 - §7.1
    if len(texts) < len(parts) or any(map(_CONTROL.search, texts)):
        raise _Refused("501 5.5.2 Error: invalid userdata")
    return texts


def _from_xtext(text: str) -> str | None:
    """RFC 3461 §4: `+` and two hexadecimal digits are one octet. None if that is not so, or for controls."""
    octets = re.sub(rb"\+([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())
    if re.search(r"=|\+(?![0-9A-Fa-f]{2})", text) or not _is_utf8(octets) or _NEVER.search(octets.decode()):
        return None
    return octets.decode()


def _from_utf8_xtext(text: str) -> str | None:
    r"""RFC 6533 §3: `\x{...}` is one character; None if the text is not of that form."""
    embedded = r"\\x\{(20|2B|3D|5C|[89A-F][0-9A-F]|[1-9A-F][0-9A-F]{2,4}|10[0-9A-F]{4})\}"
    if not re.fullmatch(rf"(?:[!-*,-<>-\[\]-~{_WIDE}]|{embedded})+", text, re.IGNORECASE):
        return None
    decoded = re.sub(embedded, lambda found: chr(int(found[1], 16)), text, flags=re.IGNORECASE)
    return None if _NEVER.search(decoded) else decoded


def _attributes(argument: str, known: Sequence[str]) -> dict[str, str | None]:
    """The attributes of XCLIENT and XFORWARD (§9.2), None for what is unavailable."""
    values: dict[str, str | None] = {}
    faults: set[str] = set()
    for name, equals, sent in [word.partition("=") for word in argument.split(" ") if word]:
        key, value = name.upper(), _from_xtext(sent) if equals else None
        form = "[!-~]*" if key == "LOGIN" else "[!-~]+"
        short = len(sent) <= 255  # noqa: PLR2004 - octets, §9.2
        good = name.isascii() and key in known and key not in values and short
        if not good or value is None or not re.fullmatch(form, value):
            faults.add("")
        elif value.upper() in {"[UNAVAILABLE]", "[TEMPUNAVAIL]"}:
            values[key] = None
        else:
            try:
                values[key] = _attribute(key, value)
            except ValueError as fault:
                faults.add(str(fault))
    if faults or not values:
        text = "…" if len(faults) > 1 else "".join(faults)  # open: which of several faults is named
        raise _Refused(f"501 5.5.4 Error: Bad command parameter syntax{text}")
    return values


def _attribute(name: str, value: str) -> str:
    words = {"PROTO": {"SMTP", "ESMTP", "LMTP"}, "SOURCE": {"LOCAL", "REMOTE"}}
    if name == "ADDR":
        prefixed = value.upper().startswith("IPV6:")  # open: IPv4 behind it
        with contextlib.suppress(ValueError):
            address = (ipaddress.IPv6Address if prefixed else ipaddress.ip_address)(value[5 * prefixed :])
            if "%" not in value:
                return str((isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address)
        raise ValueError(". Invalid address")
    if name == "PORT" and not (re.fullmatch("[0-9]{1,5}", value) and int(value) < 65536):  # noqa: PLR2004
        raise ValueError
    if value.upper() not in words.get(name, {value.upper()}):
        raise ValueError
    return value.upper() if name in words else value  # open: the specification has no form for them

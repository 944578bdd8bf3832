# Events by hand with STARTTLS: plain sockets, TLS in memory, a thread for each client, no adapter.
#
# openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out cert.pem
import socket
import ssl
import threading

import smtpproto as smtp

OPTIONS = smtp.ProtocolOptions(name="mx.example.com", needs_upgrade=True, auth_methods=(), size=10_000_000)
CONTEXT = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
CONTEXT.load_cert_chain("cert.pem", "key.pem")


class Channel:
    """A socket, in the clear until `start_tls`."""

    def __init__(self, client: socket.socket) -> None:
        self.socket = client
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls: ssl.SSLObject | None = None

    def send(self, data: bytes) -> None:
        """Send all of it."""
        if self.tls is not None and data:
            self.tls.write(data)
            data = self.outgoing.read()
        self.socket.sendall(data)

    def receive(self) -> bytes:
        """Some octets, b"" at the end."""
        if self.tls is None:
            return self.socket.recv(65536)
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                self.feed()

    def start_tls(self) -> smtp.TlsDetails:
        """The handshake."""
        self.tls = CONTEXT.wrap_bio(self.incoming, self.outgoing, server_side=True)
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.feed()
            else:
                self.socket.sendall(self.outgoing.read())
                return smtp.TlsDetails.from_ssl(self.tls)

    def feed(self) -> None:
        """Send what TLS wants to say, and give it what comes."""
        self.socket.sendall(self.outgoing.read())
        data = self.socket.recv(65536)
        self.incoming.write(data) if data else self.incoming.write_eof()


def answer(core: smtp.Connection, event: smtp.Event | smtp.Signal, message: bytearray) -> None:
    """What is to be done with mail, which has nothing to do with sockets."""
    match event:
        case smtp.RcptRequested(address) if address.domain.lower() != "example.com":
            core.decide(smtp.Reject(550, "5.1.1", "No such user here"))
        case smtp.DataStarted():
            message.clear()
        case smtp.DataChunk(data):
            message += data
        case smtp.DataFinished(refusal=None):  # whole, and it will not be refused: store it here
            print(f"{len(message)} octets from <{core.session.envelope.mail_from}>", flush=True)
        case _:
            pass
    if core.question is event:  # whatever else is asked
        core.decide(smtp.ACCEPT)


def serve(client: socket.socket, address: tuple[str, int]) -> None:
    """Serve one client, from the greeting to the end."""
    client.settimeout(OPTIONS.socket_timeout)
    core = smtp.Connection(OPTIONS, remote=address, tls_available=True)
    channel, message = Channel(client), bytearray()
    while (event := core.next_event()) is not smtp.CLOSED:
        try:
            if event is smtp.NEED_DATA:
                channel.send(core.data_to_send())
                core.receive_data(data) if (data := channel.receive()) else core.receive_eof()
            elif event is smtp.SEND or isinstance(event, smtp.ConnectionClosed):
                channel.send(core.data_to_send())
            elif isinstance(event, smtp.NeedsStartTLS):
                channel.send(core.data_to_send())
                core.tls_established(channel.start_tls())
            else:
                answer(core, event, message)
        except TimeoutError:
            core.timeout("socket_timeout")
        except OSError:  # what TLS raises is one, too
            core.connection_lost()
    client.close()


listener = socket.create_server(("127.0.0.1", 2525))
print("listening on", *listener.getsockname(), flush=True)
while True:
    threading.Thread(target=serve, args=listener.accept(), daemon=True).start()

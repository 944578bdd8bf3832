# A mail server on the events alone: plain sockets, a thread for each client, no adapter.
import socket
import threading

import smtpproto as smtp

OPTIONS = smtp.ProtocolOptions(name="mx.example.com", auth_methods=(), size=10_000_000, socket_timeout=60)


def serve(client: socket.socket, address: tuple[str, int]) -> None:
    """Serve one client, from the greeting to the end."""
    client.settimeout(OPTIONS.socket_timeout)
    core, message = smtp.Connection(OPTIONS, remote=address), bytearray()
    while (event := core.next_event()) is not smtp.CLOSED:
        try:
            if event is smtp.NEED_DATA:
                client.sendall(core.data_to_send())
                core.receive_data(data) if (data := client.recv(65536)) else core.receive_eof()
            elif event is smtp.SEND or isinstance(event, smtp.ConnectionClosed):
                client.sendall(core.data_to_send())
            elif isinstance(event, smtp.DataStarted):
                message.clear()
            elif isinstance(event, smtp.DataChunk):
                message += event.data
            elif isinstance(event, smtp.DataFinished) and event.refusal is None:  # whole: store it here
                print(f"{len(message)} octets from <{core.session.envelope.mail_from}>", flush=True)
            elif isinstance(event, smtp.RcptRequested) and event.address.domain.lower() != "example.com":
                core.decide(smtp.Reject(550, "5.1.1", "No such user here"))
            if core.question is event:  # whatever else is asked
                core.decide(smtp.ACCEPT)
        except OSError as error:
            core.timeout("socket_timeout") if isinstance(error, TimeoutError) else core.connection_lost()
    client.close()


listener = socket.create_server(("127.0.0.1", 2525))
print("listening on", *listener.getsockname(), flush=True)
while True:
    threading.Thread(target=serve, args=listener.accept(), daemon=True).start()

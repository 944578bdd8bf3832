# Mail into a database: the 250 comes after the commit, and what gets no 250 is not there.
import asyncio
import sqlite3
from contextlib import closing

from smtpproto_asyncio import PlainHandler, Session, SMTPServer, Stream

DATABASE = "mail.sqlite"
TABLE = "CREATE TABLE IF NOT EXISTS mail (id INTEGER PRIMARY KEY, sender TEXT, recipients TEXT, message BLOB)"
INSERT = "INSERT INTO mail (sender, recipients, message) VALUES (?, ?, ?)"


class Store(PlainHandler):
    """Writes each message into the database; plain hooks run in threads, so they may block."""

    def on_data(self, stream: Stream, session: Session) -> str | None:
        """Store a message, or nothing of it."""
        message = stream.read()  # raises if the message breaks off, or will be refused: it goes no further
        recipients = " ".join(address.address for address in session.envelope.rcpt_to)
        with closing(sqlite3.connect(DATABASE, timeout=60)) as database:
            row = database.execute(INSERT, (str(session.envelope.mail_from), recipients, message))
            if not stream.claim():  # the client was told 451, or is gone: it will send the message again
                print("given up", flush=True)
                return None
            database.commit()
        return f"stored as {row.lastrowid}"


async def main() -> None:
    """Listen until the program is interrupted."""
    with closing(sqlite3.connect(DATABASE)) as database:
        database.execute(TABLE)
    store = Store()
    async with SMTPServer(handler=store, auth_optional=True, size=10_000_000, hook_timeout=30) as server:
        await server.listen(2525, "127.0.0.1")
        print("listening on", server.address(), flush=True)
        await asyncio.Event().wait()


asyncio.run(main())

# Wrong ends of data: what resembles CRLF.CRLF, has been taken for it, or is made to look like it.
#
# Each row is literal: octets as sent, and as they reach the application where bare newlines are kept.
# A dot at the beginning of a line is stuffing there (RFC 5321 §4.5.2), and a line begins behind CRLF only.

from __future__ import annotations

from typing import Final

__all__ = ["BARE", "SOUND"]

# With a CR or LF outside CRLF.
BARE: Final = (
    (b"\n.\n", b"\n.\n"),
    (b"\n.\r\n", b"\n.\r\n"),
    (b"\r\n.\n", b"\r\n\n"),
    (b"\r\n.\r", b"\r\n\r"),
    (b"\r.\r", b"\r.\r"),
    (b"\r.\r\n", b"\r.\r\n"),
    (b"\r.\n", b"\r.\n"),
    (b"\n.\r", b"\n.\r"),
    (b"\n\n.\n\n", b"\n\n.\n\n"),
    (b"\r\r.\r\r", b"\r\r.\r\r"),
    (b"\n\r.\n\r", b"\n\r.\n\r"),
    (b"\r\n.\r\r\n", b"\r\n\r\r\n"),
    (b"\r\n.\n\r\n", b"\r\n\n\r\n"),
    (b"\r\n.\n\r", b"\r\n\n\r"),
    (b"\r\n.\r.", b"\r\n\r."),
    (b"\r\n.\r \n", b"\r\n\r \n"),
    (b"\r\n.\r\0", b"\r\n\r\0"),
    (b"\r\n.\r\0\n", b"\r\n\r\0\n"),
    (b"\r\n.\0\r\0\n", b"\r\n\0\r\0\n"),
    (b"\r\0\n.\r\0\n", b"\r\0\n.\r\0\n"),
    (b"\r\0\n\0.\0\r\0\n\0", b"\r\0\n\0.\0\r\0\n\0"),  # UTF-16
    (b"\0\n.\0\n", b"\0\n.\0\n"),
    (b"\n\0.\r\n", b"\n\0.\r\n"),
    (b"\r\n..\n", b"\r\n.\n"),
    (b"\n..\r\n", b"\n..\r\n"),
    (b"\r\n\r.\r\n", b"\r\n\r.\r\n"),
    (b"\r\n\n.\r\n", b"\r\n\n.\r\n"),
    (b"\n.\x85", b"\n.\x85"),
)
# With CRLF alone, or with no newline at all.
SOUND: Final = (
    (b"\r\n..\r\n", b"\r\n.\r\n"),
    (b"\r\n...\r\n", b"\r\n..\r\n"),
    (b"\r\n. \r\n", b"\r\n \r\n"),
    (b"\r\n .\r\n", b"\r\n .\r\n"),
    (b"\r\n.\t\r\n", b"\r\n\t\r\n"),
    (b"\r\n.\0\r\n", b"\r\n\0\r\n"),
    (b"\r\n\0.\r\n", b"\r\n\0.\r\n"),
    (b"\r\n.\x08\r\n", b"\r\n\x08\r\n"),
    (b"\r\n\x1a\r\n", b"\r\n\x1a\r\n"),
    (b"\x0b.\x0b", b"\x0b.\x0b"),
    (b"\r\n.\x0b\r\n", b"\r\n\x0b\r\n"),
    (b"\x0c.\x0c", b"\x0c.\x0c"),
    (b"\r\n\x0c.\r\n", b"\r\n\x0c.\r\n"),
    (b"\x1c.\x1c", b"\x1c.\x1c"),  # these and the next are line ends to str.splitlines
    (b"\x1e.\x1e", b"\x1e.\x1e"),
    (b"\x85.\x85", b"\x85.\x85"),
    (b"\xc2\x85.\xc2\x85", b"\xc2\x85.\xc2\x85"),
    (b"\xe2\x80\xa8.\xe2\x80\xa8", b"\xe2\x80\xa8.\xe2\x80\xa8"),  # U+2028
    (b"\xe2\x80\xa9.\xe2\x80\xa9", b"\xe2\x80\xa9.\xe2\x80\xa9"),  # U+2029
    (b"\x8d\x8a.\x8d\x8a", b"\x8d\x8a.\x8d\x8a"),  # CRLF.CRLF with the eighth bit set
    (b"\r\n\xae\r\n", b"\r\n\xae\r\n"),  # a dot with the eighth bit set
    (b"\r\n\xc0\xae\r\n", b"\r\n\xc0\xae\r\n"),  # a dot in overlong UTF-8
    (b"\xc0\x8d\xc0\x8a.\xc0\x8d\xc0\x8a", b"\xc0\x8d\xc0\x8a.\xc0\x8d\xc0\x8a"),
    (b"\r\n\xe2\x80\xa4\r\n", b"\r\n\xe2\x80\xa4\r\n"),  # U+2024, one dot leader
    (b"\r\n\xef\xbc\x8e\r\n", b"\r\n\xef\xbc\x8e\r\n"),  # U+FF0E, fullwidth full stop
    (b"\r\n\xe3\x80\x82\r\n", b"\r\n\xe3\x80\x82\r\n"),  # U+3002, ideographic full stop
    (b"=0D=0A.=0D=0A", b"=0D=0A.=0D=0A"),
    (b"\\r\\n.\\r\\n", b"\\r\\n.\\r\\n"),
)

# The replies that are made from a word: code, enhanced code and text.

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from smtpproto import _catalogue as catalogue

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto._reply import Reply


@pytest.mark.parametrize(("reply", "word", "text"), [
    (catalogue.syntax, "VRFY string", "501 5.5.4 Error: syntax: VRFY string"),
    (catalogue.hello_syntax, "EHLO", "501 Error: syntax: EHLO hostname"),
    (catalogue.not_in_lmtp, "HELO", "500 Error: HELO not allowed in LMTP server"),
    (catalogue.login_needed, "Log in first", "530 5.7.0 Log in first"),
    (catalogue.no_initial_response, "LOGIN", "501 5.7.0 Error: syntax: AUTH LOGIN"),
    (catalogue.too_soon, "mx.test", "421 mx.test You talk too soon"),
    (catalogue.too_many_clients, "mx.test",
     "421 mx.test Too many connected clients, try again in a moment"),
])  # fmt: skip
def test_a_reply_made_from_a_word(reply: Callable[[str], Reply], word: str, text: str) -> None:
    assert reply(word).text(coded=True) == text

# Which peers are trusted to say who a client is (PROXY, XCLIENT, XFORWARD).
#
# An address that cannot be read is never trusted, and an IPv4-mapped IPv6 address is the
# IPv4 address: on a dual-stack socket every IPv4 peer comes so (RFC 4291 §2.5.5.2).

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final

from smtpproto._values import Value

if TYPE_CHECKING:
    from collections.abc import Iterable

    PeerEntry = str | IPv4Address | IPv6Address | IPv4Network | IPv6Network

__all__ = ["Peers", "canonical_address"]

_ENTRY_TYPES: Final = (str, IPv4Address, IPv6Address, IPv4Network, IPv6Network)
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


@lru_cache(maxsize=1024)  # the server's own, and those of clients that come again
def canonical_address(text: str) -> str:
    """The one spelling of an IP address: compressed, lower-case, IPv4-mapped IPv6 as IPv4.

    A scope id (`fe80::1%eth0`, RFC 4007 §11) is kept. Text that is no address comes back unchanged.
    """
    address = _read_address(text)
    return text if address is None else str(address)


class Peers(Value):
    """A set of peers: everyone, nobody, or addresses and networks. Made by `Peers.of`."""

    __slots__ = ("_networks", "_scoped", "everyone")

    def __init__(
        self,
        networks: Iterable[IPv4Network | IPv6Network] = (),
        scoped: Iterable[str] = (),
        *,
        everyone: bool = False,
    ) -> None:
        self.everyone: bool = everyone
        """Every peer is in it, one without an IP address (unix socket) too."""
        self._networks: tuple[IPv4Network | IPv6Network, ...] = tuple(networks)
        self._scoped: frozenset[str] = frozenset(scoped)  # entries for one link only

    @classmethod
    def of(cls, value: bool | Iterable[PeerEntry]) -> Peers:  # noqa: FBT001 - the form the options have
        """True is everyone, False nobody; else addresses and networks, as text or `ipaddress` objects.

        Raises ValueError naming the entry that is neither.
        """
        if isinstance(value, bool):
            return cls(everyone=value)
        if isinstance(value, str):
            raise ValueError(f"{value!r} is one text: a list of addresses and networks is needed")  # noqa: TRY004 - options raise ValueError
        texts = [_entry_text(entry) for entry in value]
        return cls(
            networks=[_network(text) for text in texts if "%" not in text],
            scoped=[_scoped(text) for text in texts if "%" in text],
        )

    def __contains__(self, address: str) -> bool:
        """Whether the peer with this address belongs to it; "" is a peer without one."""
        if self.everyone:
            return True
        ip = _read_address(address) if self else None
        if ip is None:
            return False
        return str(ip) in self._scoped or any(ip in network for network in self._networks)

    def __bool__(self) -> bool:
        return self.everyone or bool(self._networks or self._scoped)

    def __repr__(self) -> str:
        if self.everyone:
            return "Peers.of(True)"
        return f"Peers.of({[*map(str, self._networks), *sorted(self._scoped)]!r})"


def _read_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _entry_text(entry: object) -> str:
    # `ipaddress` would also read 1 and b"\0\0\0\1" as addresses; in a list of peers they are slips.
    if not isinstance(entry, _ENTRY_TYPES):
        raise ValueError(f"{entry!r} is neither an IP address nor a network")  # noqa: TRY004 - options raise ValueError
    return str(entry)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is neither an IP address nor a network: {error}") from None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
    return network


def _scoped(text: str) -> str:
    """An address on one link only: it must match with its scope, which a network would ignore."""
    address = _read_address(text)
    if address is None:
        raise ValueError(f"{text!r} is not an IP address with a scope")
    return str(address)

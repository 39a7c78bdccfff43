"""Which addresses are this host's own: the kernel is asked each time, so what was set a moment ago counts."""

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

# linux/rtnetlink.h
_GETROUTE, _NEWROUTE, _ERROR = 26, 24, 2
_REQUEST = 1
_DESTINATION = 1
_UNICAST = 1
_MESSAGE = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, destination bits, source bits, tos, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_ANSWER_BYTES = 4096
_TYPE = 7  # where the type is in _ROUTE


def leads_away(address: IPv4Address | IPv6Address) -> bool:
    """Whether the kernel would send what goes there to another machine, or nowhere: not to this one (any address of it,
    whichever interface has it), nor to many at once. Raises `OSError`: the kernel cannot be asked."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    packed = address.packed
    route = _ROUTE.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(packed), _DESTINATION) + packed
    length = _MESSAGE.size + len(route) + len(attribute)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
        kernel.send(_MESSAGE.pack(length, _GETROUTE, _REQUEST, 1, 0) + route + attribute)
        answer = kernel.recv(_ANSWER_BYTES)
    _, kind, *_ = _MESSAGE.unpack_from(answer)
    if kind == _NEWROUTE:
        return answer[_MESSAGE.size + _TYPE] == _UNICAST
    if kind == _ERROR:  # there is no way there, so connecting will fail by itself
        return True
    msg = f"the kernel answered a question for a route with a message of type {kind}"
    raise OSError(msg)

"""WebSocket frames and Rainbow packets, as they pass on the line. See ../../PROTOCOL.md."""

from __future__ import annotations

from dataclasses import dataclass

SEND, ACK, REC, REL, COM, PING, PONG = range(1, 8)
NAMES = {SEND: "SEND", ACK: "ACK", REC: "REC", REL: "REL", COM: "COM", PING: "PING", PONG: "PONG"}
GREETING_TYPE = 65535
ID_MAX = 65534

TEXT, BINARY, CLOSE, WS_PING, WS_PONG = 1, 2, 8, 9, 10
UP, DOWN = "up", "down"


@dataclass(frozen=True)
class Packet:
    command: int
    id: int | None = None
    body: bytes = b""
    type: int = 0
    qos: int = 0
    dup: bool = False
    #: Bit 0. In ACK and REC of `rainbow.2`: the business server refused the message.
    flag: bool = False

    @property
    def name(self) -> str:
        return NAMES[self.command]

    def encode(self) -> bytes:
        head = bytes([self.command << 4 | self.dup << 3 | self.qos << 1 | self.flag])
        if self.command == SEND:
            head += self.type.to_bytes(2, "big")
        if self.id is not None:
            head += self.id.to_bytes(2, "big")
        return head + self.body

    @classmethod
    def decode(cls, data: bytes) -> Packet | None:
        """None for bytes that are no packet."""
        if not data or not SEND <= data[0] >> 4 <= PONG:
            return None
        command, qos = data[0] >> 4, data[0] >> 1 & 3
        dup, flag = bool(data[0] & 8), bool(data[0] & 1)
        if command in (PING, PONG):
            return cls(command) if len(data) == 1 else None
        is_send = command == SEND
        with_id = not is_send or qos > 0
        length = 1 + 2 * is_send + 2 * with_id
        if qos == 3 or len(data) < length:
            return None
        number = int.from_bytes(data[length - 2 : length], "big") if with_id else None
        if number is not None and not 1 <= number <= ID_MAX:
            return None
        if command in (REL, COM) and len(data) > length:
            return None
        message_type = int.from_bytes(data[1:3], "big") if is_send else 0
        return cls(command, number, bytes(data[length:]), message_type, qos, dup, flag)

    def __str__(self) -> str:
        parts = [self.name]
        if self.command == SEND:
            parts.append(f"qos={self.qos} type={self.type}")
        if self.id is not None:
            parts.append(f"id={self.id}")
        parts += ["DUP"] * self.dup + ["refused"] * self.flag
        if self.body:
            shown = repr(self.body[:60])[1:] + ("…" if len(self.body) > 60 else "")
            parts.append(f"{shown} ({len(self.body)} bytes)")
        return " ".join(parts)


@dataclass(frozen=True)
class Unit:
    """What passes as one: the head of a request or a response (`opcode` None), or a whole WebSocket message."""

    way: str
    connection: int
    raw: bytes
    opcode: int | None
    payload: bytes
    at: float

    @property
    def packet(self) -> Packet | None:
        return Packet.decode(self.payload) if self.opcode == BINARY else None

    def is_(self, command: int, **fields: object) -> bool:
        """The packet is one of this command, with these fields."""
        packet = self.packet
        return (
            packet is not None
            and packet.command == command
            and all(getattr(packet, name) == value for name, value in fields.items())
        )

    @property
    def is_greeting(self) -> bool:
        return self.way == DOWN and self.is_(SEND, type=GREETING_TYPE)

    def __str__(self) -> str:
        if self.opcode is None:
            return self.raw.split(b"\r\n", 1)[0].decode("latin-1")
        if self.opcode == CLOSE:
            code = int.from_bytes(self.payload[:2], "big") if self.payload else 1005
            return f"close {code} {self.payload[2:].decode(errors='replace')}"
        if self.opcode in (WS_PING, WS_PONG):
            return {WS_PING: "WebSocket ping", WS_PONG: "WebSocket pong"}[self.opcode]
        packet = self.packet
        return str(packet) if packet is not None else f"no packet: {self.payload[:40].hex()}"


def frame(opcode: int, payload: bytes, mask: bytes | None = None) -> bytes:
    """One frame: a server's, or with a mask a client's."""
    masked = 0x80 if mask is not None else 0
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, masked | size])
    elif size < 65536:
        head = bytes([0x80 | opcode, masked | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, masked | 127]) + size.to_bytes(8, "big")
    return head + (payload if mask is None else mask + apply_mask(payload, mask))


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    whole = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(whole, "big")).to_bytes(size, "big")


class Splitter:
    """Bytes of one direction to heads and whole messages: `(raw, opcode, payload)`; the head's opcode is None.

    After a head that refuses the upgrade follow bytes, not messages; their opcode is None, too.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._in_head, self._is_refused = True, False
        self._raw, self._parts, self._opcode = b"", b"", 0

    def feed(self, data: bytes) -> list[tuple[bytes, int | None, bytes]]:
        self._bytes += data
        found: list[tuple[bytes, int | None, bytes]] = []
        if self._in_head:
            end = self._bytes.find(b"\r\n\r\n")
            if end < 0:
                return found
            head = self._take(end + 4)
            found.append((head, None, b""))
            self._in_head = False
            self._is_refused = head.startswith(b"HTTP/") and b" 101 " not in head.split(b"\r\n", 1)[0]
        if self._is_refused and self._bytes:
            return [*found, (self._take(len(self._bytes)), None, b"")]
        while (message := self._message()) is not None:
            found.append(message)
        return found

    def _take(self, count: int) -> bytes:
        taken = bytes(self._bytes[:count])
        del self._bytes[:count]
        return taken

    def _message(self) -> tuple[bytes, int | None, bytes] | None:
        while (one := self._frame()) is not None:
            raw, is_last, opcode, payload = one
            if opcode >= 8:
                return raw, opcode, payload
            self._opcode = opcode or self._opcode
            self._raw, self._parts = self._raw + raw, self._parts + payload
            if is_last:
                whole = (self._raw, self._opcode, self._parts)
                self._raw, self._parts = b"", b""
                return whole
        return None

    def _frame(self) -> tuple[bytes, bool, int, bytes] | None:
        seen = self._bytes
        if len(seen) < 2:
            return None
        size, start = seen[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, start = int.from_bytes(seen[2 : 2 + width], "big"), 2 + width
        is_masked = bool(seen[1] & 0x80)
        start += 4 * is_masked
        if len(seen) < start + size:
            return None
        raw = self._take(start + size)
        payload = raw[start:]
        if is_masked:
            payload = apply_mask(payload, raw[start - 4 : start])
        return raw, bool(raw[0] & 0x80), raw[0] & 15, payload

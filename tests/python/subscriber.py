"""A WebSocket client of a few lines: enough of RFC 6455 and of the Centrifuge JSON protocol to be a subscriber."""

import base64
import hashlib
import hmac
import json
import os
import socket
import struct

from daemon import DEADLINE_SECONDS, TOKEN_SECRET


def token(user, **claims):
    """A connection token (JWT, HS256)."""

    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part({"sub": user, **claims})
    digest = hmac.new(TOKEN_SECRET.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


class Subscriber:
    """One connected client."""

    def __init__(self, address, user=None, info=None, fields=""):
        """`fields` are further header fields of the upgrade, each with its line's end."""
        host, port = address.split(":")
        self._socket = socket.create_connection((host, int(port)), DEADLINE_SECONDS)
        self._input = self._socket.makefile("rb")
        self._messages = []
        self._ids = 0
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET /connection/websocket HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n".encode()
        )
        status = self._input.readline()
        assert b" 101 " in status, status
        while self._input.readline() != b"\r\n":
            pass
        claims = {} if info is None else {"info": info}
        self.connected = self.command("connect", {} if user is None else {"token": token(user, **claims)})
        self.client = self.connected["client"]

    def command(self, method, body):
        """The result of a command; pushes before its reply are kept for `push`."""
        self._ids += 1
        self._send(0x1, json.dumps({"id": self._ids, method: body}).encode())
        pushes = []
        while True:
            message = self._message()
            if message.get("id") == self._ids:
                self._messages = pushes + self._messages
                assert "error" not in message, message
                return message[method]
            pushes.append(message)

    def subscribe(self, channel):
        return self.command("subscribe", {"channel": channel})

    def push(self):
        """The next push: one of pub, join, leave, subscribe, unsubscribe, ..."""
        while True:
            message = self._message()
            if "push" in message:
                return message["push"]

    def closed(self):
        """The code and reason of the Close that comes."""
        while True:
            opcode, payload = self._frame()
            if opcode == 0x8:
                return struct.unpack("!H", payload[:2])[0], payload[2:].decode()

    def close(self):
        self._input.close()
        self._socket.close()

    def _message(self):
        while not self._messages:
            opcode, payload = self._frame()
            if opcode == 0x8:
                raise ConnectionError(f"closed: {payload}")
            for line in payload.decode().splitlines():
                if line == "{}":
                    self._send(0x1, b"{}")
                elif line:
                    self._messages.append(json.loads(line))
        return self._messages.pop(0)

    def _frame(self):
        first, second = self._exactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._exactly(8))
        return first & 0xF, self._exactly(length)

    def _exactly(self, length):
        data = self._input.read(length)
        if len(data) < length:
            raise ConnectionError("the stream ended")
        return data

    def _send(self, opcode, payload):
        if len(payload) < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | len(payload))
        else:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, len(payload))
        mask = os.urandom(4)
        self._socket.sendall(head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)))

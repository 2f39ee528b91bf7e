"""PyPI websockets, unmodified, with compression: it offers permessage-deflate by itself, and inflates strictly."""

import json
import unittest

import requests
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from daemon import API_KEY, DEADLINE_SECONDS, Daemon

SETTINGS = {"TRUNKLINE_CLIENT_COMPRESSION": "true", "TRUNKLINE_ECHO": "true"}
OFFERS = [
    {},
    {"server_no_context_takeover": True, "client_no_context_takeover": True},
    {"server_max_window_bits": 9},
    {"server_max_window_bits": 15, "client_max_window_bits": 9},
    {"client_max_window_bits": True},
]


def document(number):
    rows = [{"row": row, "name": f"name of row {row}", "value": row * number} for row in range(20)]
    return {"number": number, "rows": rows}


class Compression(unittest.TestCase):
    def run_on(self, driver):
        daemon = Daemon(driver, settings=SETTINGS)
        try:
            self.echoes(daemon)
            self.publications(daemon)
            self.bombs(daemon)
        finally:
            self.assertEqual(daemon.stop(), 0)

    def echoes(self, daemon):
        for offer in OFFERS:
            extensions = [ClientPerMessageDeflateFactory(**offer)]
            with connect(f"ws://{daemon.address}/echo", extensions=extensions, compression=None) as socket:
                names = [extension.name for extension in socket.protocol.extensions]
                self.assertEqual(names, ["permessage-deflate"], offer)
                for size in [0, 1, 100, 511, 512, 5_000, 70_000, 200_000]:
                    text = ("ä€ a message " * (size // 15 + 1))[:size]
                    for message in [text, text.encode()]:
                        socket.send(message)
                        self.assertEqual(socket.recv(DEADLINE_SECONDS), message)
                # In fragments of one compressed message.
                socket.send(["one ", "two ", "three "] * 100)
                self.assertEqual(socket.recv(DEADLINE_SECONDS), "one two three " * 100)

    def publications(self, daemon):
        url = f"ws://{daemon.address}/ws?channel=python&bare=1"
        with connect(url) as compressed, connect(url, compression=None) as plain:
            self.assertEqual(len(compressed.protocol.extensions), 1)
            self.assertEqual(len(plain.protocol.extensions), 0)
            for number in range(1, 21):
                answer = requests.post(
                    f"{daemon.api_url}/publish",
                    json={"channel": "python", "data": document(number)},
                    headers={"X-API-Key": API_KEY},
                    timeout=DEADLINE_SECONDS,
                )
                self.assertIn("result", answer.json(), answer.text)
            for socket in [compressed, plain]:
                got = [json.loads(socket.recv(DEADLINE_SECONDS)) for _ in range(20)]
                self.assertEqual(got, [document(number) for number in range(1, 21)])

    def bombs(self, daemon):
        with connect(f"ws://{daemon.address}/connection/websocket") as socket:
            socket.send("x" * (256 * 1024 + 1))
            with self.assertRaises(ConnectionClosedError) as closed:
                socket.recv(DEADLINE_SECONDS)
            self.assertEqual(closed.exception.rcvd.code, 1009)

    def test_on_io_uring(self):
        self.run_on("io-uring")

    def test_on_mio(self):
        self.run_on("mio")


if __name__ == "__main__":
    unittest.main()

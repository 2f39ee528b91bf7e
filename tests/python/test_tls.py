"""TLS with clients from PyPI, unmodified: websockets, centrifuge-python in both forms, requests and httpx, on both drivers."""

import asyncio
import json
import pathlib
import re
import ssl
import subprocess
import tempfile
import unittest

import requests
import websockets
from centrifuge import Client, SubscriptionEventHandler

from daemon import API_KEY, DEADLINE_SECONDS, Daemon, until

TABLES = """
[tls]
cert = "{cert}"
key = "{key}"
"""


def sign(directory, name):
    """A certificate that signs itself, as small installations have: clients trust the certificate itself."""
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        + ["-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    return cert, key


class Heard(SubscriptionEventHandler):
    def __init__(self):
        self.subscribed = asyncio.Event()
        self.publications = asyncio.Queue()

    async def on_subscribed(self, _):
        self.subscribed.set()

    async def on_publication(self, context):
        await self.publications.put(context.pub.data)


class Cases:
    driver = None

    def setUp(self):
        self._directory = tempfile.TemporaryDirectory(prefix="trunkline-tls-")
        self.cert, key = sign(pathlib.Path(self._directory.name), "a")
        settings = {"TRUNKLINE_LISTEN_TLS": "127.0.0.1:0", "TRUNKLINE_ECHO": "true"}
        self.daemon = Daemon(self.driver, TABLES.format(cert=self.cert, key=key), settings)
        said = until(lambda: re.search(r"listening on ([\d.]+:\d+) \(TLS\)", self.daemon.output), "the port of TLS")
        self.secure = said.group(1)

    def tearDown(self):
        self.assertEqual(self.daemon.stop(), 0)
        self._directory.cleanup()

    def context(self, version=None):
        context = ssl.create_default_context(cafile=str(self.cert))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context

    def publish(self, channel, data):
        answer = requests.post(
            f"https://{self.secure}/api/publish",
            json={"channel": channel, "data": data},
            headers={"X-API-Key": API_KEY},
            verify=str(self.cert),
            timeout=DEADLINE_SECONDS,
        )
        self.assertIn("result", answer.json(), answer.text)

    async def test_websockets_in_both_versions(self):
        for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
            async with websockets.connect(
                f"wss://{self.secure}/echo", ssl=self.context(version), max_size=None, compression=None
            ) as socket:
                for size in 0, 1, 16_384, 60_000:
                    await socket.send("x" * size)
                    self.assertEqual(await asyncio.wait_for(socket.recv(), DEADLINE_SECONDS), "x" * size)
                await asyncio.wait_for(await socket.ping(), DEADLINE_SECONDS)
            self.assertEqual(socket.close_code, 1000)

    async def test_websockets_as_a_unidirectional_client(self):
        async with websockets.connect(f"wss://{self.secure}/ws?channel=plain", ssl=self.context()) as socket:

            async def message_with(key):
                while True:
                    message = json.loads(await asyncio.wait_for(socket.recv(), DEADLINE_SECONDS))
                    if key in message:
                        return message

            await message_with("ready")
            await asyncio.to_thread(self.publish, "plain", {"n": 1})
            self.assertEqual((await message_with("channel"))["data"], {"n": 1})

    async def test_the_sdk_in_both_forms(self):
        for use_protobuf in False, True:
            heard = Heard()
            url = f"wss://{self.secure}/connection/websocket"
            client = Client(url, use_protobuf=use_protobuf, ssl_context=self.context())
            subscription = client.new_subscription("news", heard)
            await client.connect()
            await subscription.subscribe()
            await asyncio.wait_for(heard.subscribed.wait(), DEADLINE_SECONDS)
            data = {"text": "x" * 40_000}
            await asyncio.to_thread(self.publish, "news", data)
            got = await asyncio.wait_for(heard.publications.get(), DEADLINE_SECONDS)
            self.assertEqual(json.loads(got) if isinstance(got, bytes) else got, data)
            await client.disconnect()

    async def test_a_stranger_s_certificate_is_refused_and_counted(self):
        with self.assertRaises(ssl.SSLCertVerificationError):
            await websockets.connect(f"wss://{self.secure}/echo", ssl=ssl.create_default_context())

        def refused():
            answer = requests.get(
                f"http://{self.daemon.address}/metrics", headers={"X-API-Key": API_KEY}, timeout=DEADLINE_SECONDS
            )
            # asyncio goes away without the alert that others send.
            causes = r'trunkline_faults_total\{cause="tls_(?:certificate_refused|handshake_aborted)"\} (\d+)'
            return sum(map(int, re.findall(causes, answer.text))) == 1

        await asyncio.to_thread(until, refused, "it is counted")


class OnIoUring(Cases, unittest.IsolatedAsyncioTestCase):
    driver = "io-uring"


class OnMio(Cases, unittest.IsolatedAsyncioTestCase):
    driver = "mio"


if __name__ == "__main__":
    unittest.main()

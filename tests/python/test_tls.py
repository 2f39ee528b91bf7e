"""PyPI websockets over wss, in both versions of TLS, on both drivers."""

import asyncio
import json
import pathlib
import re
import ssl
import subprocess
import tempfile
import unittest

from cent import Client as Api
from cent import PublishRequest
from websockets.asyncio.client import connect

from daemon import API_KEY, DEADLINE_SECONDS, Daemon, until


def certificate(directory):
    """Files of a certificate for localhost, which is its own authority, and of its key."""
    files = [str(pathlib.Path(directory) / name) for name in ("cert.pem", "key.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", files[0], "-keyout", files[1]],
        check=True, capture_output=True,
    )
    return files


class Wss(unittest.TestCase):
    def test_a_client_of_websockets(self):
        for driver in ("io-uring", "mio"):
            with self.subTest(driver=driver), tempfile.TemporaryDirectory() as directory:
                cert, key = certificate(directory)
                tables = f'\n[tls]\ncert = "{cert}"\nkey = "{key}"\n'
                daemon = Daemon(driver, tables, {"TRUNKLINE_LISTEN_TLS": "127.0.0.1:0"})
                try:
                    port = until(lambda: re.search(r"wss://127\.0\.0\.1:(\d+)/", daemon.output), "a port").group(1)
                    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                        context = ssl.create_default_context(cafile=cert)
                        context.minimum_version = context.maximum_version = version
                        asyncio.run(asyncio.wait_for(self.speak(port, context, daemon), DEADLINE_SECONDS))
                finally:
                    daemon.stop()

    async def speak(self, port, context, daemon):
        async with connect(f"wss://localhost:{port}/connection/websocket", ssl=context, max_size=None) as socket:
            await socket.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"news"}}')
            ids = set()
            while len(ids) < 2:
                ids |= {reply["id"] for reply in map(json.loads, (await socket.recv()).splitlines()) if "id" in reply}
            text = "x" * 100_000
            await asyncio.to_thread(Api(daemon.api_url, API_KEY).publish, PublishRequest(channel="news", data=text))
            push = json.loads(await socket.recv())
            self.assertEqual(push["push"]["pub"]["data"], text)


if __name__ == "__main__":
    unittest.main()

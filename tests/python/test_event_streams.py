"""Readers of event streams from PyPI, unmodified: requests with sseclient-py, and httpx-sse.

They read by lines: an event must come with its own bytes, not with those of the next one. Heartbeats are far apart here, so
that nothing else can push it through.
"""

import json
import threading
import time
import unittest

import httpx
import httpx_sse
import requests
import sseclient

from daemon import API_KEY, Daemon, until

FAR_APART = {"TRUNKLINE_CLIENT_PING_INTERVAL": "10m"}
OFTEN = {"TRUNKLINE_CLIENT_PING_INTERVAL": "1s", "TRUNKLINE_CLIENT_PONG_TIMEOUT": "500ms"}


def publish(daemon, channel, data):
    answer = requests.post(
        f"{daemon.api_url}/publish",
        json={"channel": channel, "data": data},
        headers={"X-API-Key": API_KEY},
        timeout=60,
    )
    assert "result" in answer.json(), answer.text


def by_sseclient(url, headers, heard):
    with requests.get(url, headers={"Accept": "text/event-stream", **headers}, stream=True, timeout=60) as response:
        for event in sseclient.SSEClient(response).events():
            heard(event.event, event.data, event.id)


def by_lines(url, headers, heard):
    with requests.get(url, headers={"Accept": "text/event-stream", **headers}, stream=True, timeout=60) as response:
        name, last = "message", None
        for line in response.iter_lines(decode_unicode=True):
            field, _, value = line.partition(": ")
            match field:
                case "event":
                    name = value
                case "id":
                    last = value
                case "data":
                    heard(name, value, last)
                    name = "message"


def by_httpx(url, headers, heard):
    with httpx.Client(timeout=60) as client, httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
        for event in source.iter_sse():
            heard(event.event, event.data, event.id)


class Listening:
    """Events as a reader's thread hears them, until one says "end"."""

    def __init__(self, reader, url, headers=None):
        self.events = []
        self._thread = threading.Thread(target=self._run, args=(reader, url, headers or {}), daemon=True)
        self._thread.start()
        until(lambda: any(name == "ready" for name, _, _ in self.events), lambda: f"ready: {self.events}")

    def _run(self, reader, url, headers):
        class End(Exception):
            pass

        def heard(name, data, last):
            self.events.append((name, data, last))
            if name == "message" and json.loads(data)["data"] == "end":
                raise End

        try:
            reader(url, headers, heard)
        except End:
            pass

    @property
    def messages(self):
        return [json.loads(data)["data"] for name, data, _ in self.events if name == "message"]

    def finish(self, daemon, channel):
        publish(daemon, channel, "end")
        self._thread.join(60)
        assert not self._thread.is_alive()


READERS = {"sseclient-py": by_sseclient, "lines of requests": by_lines, "httpx-sse": by_httpx}


class Cases:
    def test_each_event_comes_before_the_next_is_published(self):
        daemon = Daemon(self.driver, settings=FAR_APART)
        self.addCleanup(daemon.kill)
        for name, reader in READERS.items():
            with self.subTest(name):
                channel = name.replace(" ", "-")
                listening = Listening(reader, f"http://{daemon.address}/sse?channel={channel}")
                for number in range(1, 6):
                    publish(daemon, channel, number)
                    until(lambda: number in listening.messages, lambda: f"{number}: {listening.events}")
                listening.finish(daemon, channel)
                self.assertEqual(listening.messages, [1, 2, 3, 4, 5, "end"])

    def test_heartbeats_are_no_events_and_the_last_id_goes_on(self):
        daemon = Daemon(self.driver, settings=OFTEN)
        self.addCleanup(daemon.kill)
        for name, reader in READERS.items():
            with self.subTest(name):
                channel = name.replace(" ", "-")
                url = f"http://{daemon.address}/sse?channel={channel}"
                first = Listening(reader, url)
                publish(daemon, channel, 1)
                until(lambda: first.messages == [1], lambda: str(first.events))
                # Time for heartbeats, of which none may become an event.
                for number in (2, 3):
                    time.sleep(1.5)
                    publish(daemon, channel, number)
                    until(lambda: number in first.messages, lambda: str(first.events))
                self.assertEqual([event[0] for event in first.events], ["ready", "message", "message", "message"])
                self.assertTrue(all(data for _, data, _ in first.events), first.events)
                last = next(last for event, data, last in first.events if event == "message")
                second = Listening(reader, url, {"Last-Event-ID": last})
                until(lambda: second.messages == [2, 3], lambda: str(second.events))
                first.finish(daemon, channel)
                until(lambda: second.messages == [2, 3, "end"], lambda: str(second.events))


class OnIoUring(Cases, unittest.TestCase):
    driver = "io-uring"


class OnMio(Cases, unittest.TestCase):
    driver = "mio"


if __name__ == "__main__":
    unittest.main()

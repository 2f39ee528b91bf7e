"""Each stage made slow once, by its real cause: which number shows it, and which objective misses it.

A thread of the daemon is held by ptrace, which needs root or CAP_SYS_PTRACE: the daemon cannot be examined by others.
"""

import contextlib
import ctypes
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

from daemon import API_KEY, DEADLINE_SECONDS, DRIVERS, Daemon, until
from subscriber import Subscriber

# What is held is held longer than objectives allow, and longer than a busy machine makes anything else wait.
P99 = "1s"
HOLD_SECONDS = 1.3

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def ptrace(request, thread):
    if _libc.ptrace(request, thread, None, None) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of thread {thread}")


@contextlib.contextmanager
def held(pid, name):
    """The thread of that name does nothing meanwhile."""
    tasks = pathlib.Path(f"/proc/{pid}/task")
    (thread,) = [int(task.name) for task in tasks.iterdir() if (task / "comm").read_text().strip() == name]
    ptrace(PTRACE_SEIZE, thread)
    try:
        ptrace(PTRACE_INTERRUPT, thread)
        os.waitpid(thread, WALL)
        yield
    finally:
        ptrace(PTRACE_DETACH, thread)


class Backend(http.server.ThreadingHTTPServer):
    """Takes events; answers hooks when it is let."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.events = []
        self.let = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    def missed(self):
        return {event["objective"]: event for event in self.events if event["type"] == "objective_missed"}

    def close(self):
        self.let.set()
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {}
        if self.path == "/events":
            self.server.events.extend(body["events"])
        else:
            self.server.let.wait(DEADLINE_SECONDS)
            answer = {"result": {"user": "ann"}}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Node:
    """A daemon with an objective for each stage, whose API is apart from its clients, and what asks it."""

    def __init__(self, case, driver, objectives, tables="", **settings):
        self.backend = Backend()
        case.addCleanup(self.backend.close)
        tables = "".join(
            f'\n[[objective]]\nname = "{name}"\nstage = "{stage}"\np99 = "{P99}"\nwindow = "10s"\n'
            for name, stage in objectives.items()
        ) + tables
        settings = {
            "API_LISTEN": "127.0.0.1:0", "EVENTS_TYPES": "objective_missed", "EVENTS_ENDPOINT": self.backend.url("events"),
            "LIMITS_API_TIMEOUT": "30s", **settings,
        }
        self.daemon = Daemon(driver, tables, {f"TRUNKLINE_{name}": value for name, value in settings.items()})
        case.addCleanup(self.daemon.kill)
        found = until(lambda: re.search(r"API listening on ([\d.:]+)\n", self.daemon.output), lambda: self.daemon.output)
        self.api = f"http://{found.group(1)}"

    def get(self, path):
        request = urllib.request.Request(self.api + path, headers={"X-API-Key": API_KEY})
        with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as response:
            return response.read().decode()

    def publish(self, channel, **more):
        body = json.dumps({"channel": channel, "data": {"n": 1}, **more}).encode()
        request = urllib.request.Request(f"{self.api}/api/publish", data=body, headers={"X-API-Key": API_KEY})
        with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as response:
            return json.loads(response.read())

    def metric(self, name, text=None, **labels):
        """The sum of the samples of that name that have these labels."""
        total, found = 0.0, False
        for line in (text or self.get("/metrics")).splitlines():
            sample = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if sample and sample.group(1) == name:
                own = dict(re.findall(r'(\w+)="([^"]*)"', sample.group(2) or ""))
                if labels.items() <= own.items():
                    total, found = total + float(sample.group(3)), True
        assert found, f"no {name} {labels}"
        return total

    def slower_than(self, name, seconds, **labels):
        """How many of a histogram took longer."""
        text = self.get("/metrics")
        return self.metric(f"{name}_count", text, **labels) - self.metric(f"{name}_bucket", text, le=seconds, **labels)

    def await_miss(self, objective):
        """The event, and the line of the log."""
        event = until(lambda: self.backend.missed().get(objective), lambda: self.backend.events)
        until(lambda: "objective missed" in self.daemon.output, lambda: self.daemon.output)
        return event

    def subscriber(self, channel):
        client = Subscriber(self.daemon.address)
        client.subscribe(channel)
        return client


def in_background(call, *arguments, **named):
    thread = threading.Thread(target=call, args=arguments, kwargs=named, daemon=True)
    thread.start()
    return thread


def is_taken(node):
    """Whether a publication is taken. As long as the engine is away it is answered 503."""
    with contextlib.suppress(urllib.error.HTTPError):
        return "result" in node.publish("news")
    return False


class SlowStages(unittest.TestCase):
    def test_a_hook(self):
        objectives = {"answers": "hook", "taken": "accepted"}
        hook = '\n[[hook]]\nname = "who"\nendpoint = "%s"\ntimeout = "30s"\nin_flight_max = 1\n'
        waiting = Backend()
        self.addCleanup(waiting.close)
        node = Node(self, "mio", objectives, hook % waiting.url("connect"), CLIENT_CONNECT_HOOK="who")
        clients = []
        connecting = [in_background(lambda: clients.append(Subscriber(node.daemon.address))) for _ in range(2)]
        until(lambda: node.metric("trunkline_hook_in_flight", hook="who") == 1, "the backend has one")
        until(lambda: node.metric("trunkline_hook_waiting", hook="who") == 1, "the other one is in line")
        time.sleep(HOLD_SECONDS)
        waiting.let.set()
        for thread in connecting:
            thread.join(DEADLINE_SECONDS)
        self.assertEqual(len(clients), 2)
        for client in clients:
            client.close()
        event = node.await_miss("answers")
        self.assertEqual(event["stage"], "hook")
        self.assertIn(event["shard"], (0, 1))
        self.assertEqual(node.slower_than("trunkline_hook_call_seconds", "1.0"), 2)
        self.assertEqual(node.metric("trunkline_objective_met", objective="taken"), 1)

    def test_the_store(self):
        with tempfile.TemporaryDirectory(prefix="trunkline-test-") as folder:
            namespace = '\n[[namespace]]\nname = "kept"\nhistory_size = 10\nhistory_ttl = "10m"\ndurable = "sync"\n'
            objectives = {"kept": "appended", "taken": "accepted"}
            node = Node(self, "io-uring", objectives, namespace, STORE_PATH=folder)
            with held(node.daemon.pid, "store"):
                publisher = in_background(node.publish, "kept:log")
                until(lambda: node.metric("trunkline_store_waiting") == 1, "it waits for the disk")
                self.assertGreater(node.metric("trunkline_store_queue_bytes"), 0)
                time.sleep(HOLD_SECONDS)
            publisher.join(DEADLINE_SECONDS)
            event = node.await_miss("kept")
            self.assertEqual(event["stage"], "appended")
            self.assertIn(event["shard"], (0, 1))
            self.assertEqual(node.slower_than("trunkline_stage_seconds", "1.0", stage="appended", namespace="kept"), 1)
            self.assertEqual(node.slower_than("trunkline_stage_seconds", "1.0", stage="accepted", namespace="kept"), 0)
            self.assertEqual(node.metric("trunkline_store_waiting"), 0)
            self.assertNotIn("taken", node.backend.missed())
            node.daemon.stop()

    def test_the_engine(self):
        with tempfile.TemporaryDirectory(prefix="trunkline-test-") as folder, socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            free.close()
            redis = subprocess.Popen(
                [shutil.which("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
                stdout=subprocess.DEVNULL,
            )
            self.addCleanup(redis.wait)
            self.addCleanup(redis.kill)
            node = Node(self, "mio", {"kept": "appended"}, ENGINE_KIND="redis", ENGINE_TIMEOUT="30s",
                        ENGINE_ADDRESS=f"redis://127.0.0.1:{port}")
            until(lambda: is_taken(node), "the engine is there")
            redis.send_signal(signal.SIGSTOP)
            publisher = in_background(node.publish, "news")
            until(lambda: node.metric("trunkline_engine_under_way") >= 1, "it waits for the engine")
            # The server has one batch at a time: what comes now is in line.
            others = [in_background(node.publish, "news") for _ in range(3)]
            until(lambda: node.metric("trunkline_engine_waiting", server="0") >= 3, "more of them")
            time.sleep(HOLD_SECONDS)
            redis.send_signal(signal.SIGCONT)
            for thread in (publisher, *others):
                thread.join(DEADLINE_SECONDS)
            event = node.await_miss("kept")
            self.assertEqual((event["stage"], event.get("shard")), ("appended", None))
            self.assertEqual(node.metric("trunkline_objective_met", objective="kept"), 0)
            self.assertGreaterEqual(node.slower_than("trunkline_engine_publish_seconds", "1.0"), 4)
            until(lambda: node.metric("trunkline_engine_under_way") == 0, "nothing waits")

    def test_a_shard_that_does_not_get_to_its_inbox(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                node = Node(self, driver, {"taken": "accepted", "written": "last_write"})
                channels = [f"room-{number}" for number in range(16)]
                with held(node.daemon.pid, "shard-1"):
                    publishers = [in_background(node.publish, channel) for channel in channels]
                    # Half of them, more or less, are answered by the other shard.
                    time.sleep(HOLD_SECONDS)
                    scraped = []
                    scrape = in_background(lambda: scraped.append(node.get("/metrics")))
                    time.sleep(0.2)
                for thread in (*publishers, scrape):
                    thread.join(DEADLINE_SECONDS)
                event = node.await_miss("taken")
                self.assertEqual((event["stage"], event["shard"]), ("accepted", 1))
                late = node.slower_than("trunkline_stage_seconds", "1.0", stage="accepted")
                self.assertTrue(0 < late < 16, f"those of one shard, and not of the other: {late}")
                self.assertGreaterEqual(node.metric("trunkline_inbox_messages", scraped[0], shard="1"), late)
                self.assertLess(node.metric("trunkline_inbox_messages", scraped[0], shard="0"),
                                node.metric("trunkline_inbox_messages", scraped[0], shard="1"))
                self.assertNotIn("written", node.backend.missed(), "there are no subscribers")

    def test_a_fan_out(self):
        node = Node(self, "io-uring", {"taken": "accepted", "begun": "first_write", "written": "last_write"})
        clients = [node.subscriber("wide") for _ in range(12)]
        node.publish("wide", spread_ms=2500)
        until(lambda: node.metric("trunkline_undelivered_bytes") + node.metric("trunkline_held_back_bytes") > 0,
              "it is not delivered to all")
        for client in clients:
            self.assertIn("pub", client.push())
            client.close()
        event = node.await_miss("written")
        self.assertEqual(event["stage"], "last_write")
        self.assertIn(event["shard"], (0, 1))
        self.assertNotIn("taken", node.backend.missed())

    def test_clients_that_do_not_read(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                node = Node(self, driver, {"behind": "caught_up", "taken": "accepted"}, CLIENT_SEND_BUFFER_BYTES="16KiB")
                slow = node.subscriber("wide")
                data = "x" * 30_000

                def lags():
                    node.publish("wide", data=data)
                    time.sleep(0.1)
                    return node.metric("trunkline_lagging_connections") >= 1

                # For good: the kernel may find room for more at first.
                until(lambda: all(lags() for _ in range(3)), "it lags")
                time.sleep(HOLD_SECONDS)
                self.assertEqual(node.slower_than("trunkline_lag_seconds", "1.0"), 0)
                node.publish("wide", data="last")
                while slow.push()["pub"]["data"] != "last":
                    pass
                event = node.await_miss("behind")
                self.assertEqual(event["stage"], "caught_up")
                self.assertIn(event["shard"], (0, 1))
                self.assertEqual(node.slower_than("trunkline_lag_seconds", "1.0"), 1)
                until(lambda: node.metric("trunkline_lagging_connections") == 0, "it lags no longer")
                self.assertNotIn("taken", node.backend.missed())
                slow.close()


if __name__ == "__main__":
    unittest.main()

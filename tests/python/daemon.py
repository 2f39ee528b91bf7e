"""The daemon as a child process, for tests in Python."""

import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TRUNKLINE_TEST_BINARY", str(ROOT / "target" / "debug" / "trunkline"))
API_KEY = "key-of-the-tests"
TOKEN_SECRET = "secret-of-the-tests-0123456789abcdef"

DRIVERS = ("io-uring", "mio")

# Bounds a hang; says nothing about speed.
DEADLINE_SECONDS = 60

CONFIGURATION = f"""
[api]
key = "{API_KEY}"

[client]
allow_anonymous = true

[client.token]
hmac_secret = "{TOKEN_SECRET}"

[channel]
history_size = 100
history_ttl = "10m"
presence = true
allow_subscribe_for_client = true
allow_publish_for_client = true
allow_history_for_client = true
allow_presence_for_client = true

[[namespace]]
name = "bare"
allow_subscribe_for_client = true
"""


def until(condition, what):
    """The first truthy value of `condition`, asked again until the deadline."""
    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"gave up waiting: {what() if callable(what) else what}")
        time.sleep(0.01)


class Daemon:
    """A running daemon on a port of its own."""

    def __init__(self, driver, tables="", settings=None, centrifugo=False):
        """`tables` come behind those of the configuration, `settings` into the environment. `centrifugo`: there is no
        configuration but Centrifugo's in `settings`."""
        self._directory = tempfile.TemporaryDirectory(prefix="trunkline-test-")
        file = pathlib.Path(self._directory.name) / "trunkline.toml"
        file.write_text(CONFIGURATION + tables)
        source = ["--centrifugo", "/dev/null"] if centrifugo else ["--config", str(file)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
        environment["TRUNKLINE_SHUTDOWN_DRAIN"] = "0s"
        environment.update(settings or {})
        self._process = subprocess.Popen(
            [BINARY, *source, "--listen", "127.0.0.1:0", "--driver", driver, "--shards", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
        )
        self._lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.address = until(self._listening, lambda: "the daemon listens\n" + self.output)
        except TimeoutError:
            self.kill()
            raise

    @property
    def output(self):
        return "".join(self._lines)

    @property
    def api_url(self):
        return f"http://{self.address}/api"

    @property
    def pid(self):
        return self._process.pid

    def signal(self, name):
        self._process.send_signal(getattr(signal, name))

    def stop(self):
        """SIGTERM; the exit code."""
        self.signal("SIGTERM")
        return self.ended()

    def ended(self):
        """The exit code, when it has ended by itself."""
        try:
            return self._process.wait(DEADLINE_SECONDS)
        finally:
            self.kill()

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._directory.cleanup()

    def _read(self):
        for line in self._process.stdout:
            self._lines.append(line)

    def _listening(self):
        if self._process.poll() is not None:
            raise RuntimeError(f"the daemon ended with {self._process.returncode}\n{self.output}")
        found = re.search(r"(?<!api )listening on ([\d.]+:\d+)", self.output)
        return found and found.group(1)

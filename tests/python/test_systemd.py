"""What a service manager sees: notifications, the watchdog, sockets that are handed over, and the unit file."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import unittest
import urllib.request

from daemon import BINARY, CONFIGURATION, DEADLINE_SECONDS, DRIVERS, Daemon

TUNING = pathlib.Path(__file__).resolve().parents[2] / "tuning"


class Manager:
    """The socket that notifications are sent to."""

    def __init__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="trunkline-test-")
        self.path = os.path.join(self._directory.name, "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(DEADLINE_SECONDS)

    def told(self, but=()):
        """The next notification as a dict, past those that only say a key of `but`."""
        while True:
            lines = self._socket.recv(4096).decode().splitlines()
            told = dict(line.split("=", 1) for line in lines)
            if not set(told) <= set(but):
                return told

    def close(self):
        self._socket.close()
        self._directory.cleanup()


class Systemd(unittest.TestCase):
    def test_each_step_of_a_life_is_told(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                manager = Manager()
                daemon = Daemon(driver, settings={"NOTIFY_SOCKET": manager.path})
                self.assertEqual(manager.told()["READY"], "1")
                daemon.signal("SIGHUP")
                reloading = manager.told()
                self.assertEqual(reloading["RELOADING"], "1")
                # Of the clock that the manager reads as well.
                self.assertLess(abs(time.monotonic() - int(reloading["MONOTONIC_USEC"]) / 1e6), DEADLINE_SECONDS)
                self.assertEqual(manager.told()["READY"], "1")
                daemon.signal("SIGTERM")
                self.assertEqual(manager.told()["STOPPING"], "1")
                self.assertEqual(daemon.ended(), 0)
                manager.close()

    def test_the_watchdog_is_fed_twice_in_its_time(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                manager = Manager()
                settings = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "400000"}
                daemon = Daemon(driver, settings=settings)
                for _ in range(5):
                    self.assertEqual(manager.told(but={"READY", "STATUS"}), {"WATCHDOG": "1"})
                self.assertEqual(daemon.stop(), 0)
                manager.close()

    def test_sockets_that_are_handed_over_are_served(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                self.serve_handed_over(driver)

    def serve_handed_over(self, driver):
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        address = "127.0.0.1:%d" % listener.getsockname()[1]
        # It waits in the backlog: nobody serves it yet.
        early = socket.create_connection(listener.getsockname(), DEADLINE_SECONDS)
        early.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

        process, output = self.start(driver, address, listener)
        try:
            self.assertIn(b"200 OK", early.recv(4096))
            for _ in range(20):
                with urllib.request.urlopen(f"http://{address}/health", timeout=DEADLINE_SECONDS) as answer:
                    self.assertEqual(answer.status, 200)
        finally:
            process.terminate()
            self.assertEqual(process.wait(DEADLINE_SECONDS), 0, output.read_text())
        # The socket is the manager's: who comes meanwhile waits for the next process.
        late = socket.create_connection(listener.getsockname(), DEADLINE_SECONDS)
        late.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        process, output = self.start(driver, address, listener)
        self.assertIn(b"200 OK", late.recv(4096))
        process.terminate()
        process.wait(DEADLINE_SECONDS)

        # One that is not configured, and a listener that is not handed over.
        process, output = self.start(driver, "127.0.0.1:1", listener)
        self.assertEqual(process.wait(DEADLINE_SECONDS), 1)
        self.assertIn("127.0.0.1:1 is not among the sockets", output.read_text())
        for end in (early, late, listener):
            end.close()

    def start(self, driver, address, listener):
        directory = tempfile.TemporaryDirectory(prefix="trunkline-test-")
        self.addCleanup(directory.cleanup)
        file = pathlib.Path(directory.name) / "trunkline.toml"
        file.write_text(CONFIGURATION)
        output = pathlib.Path(directory.name) / "output"
        command = f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&{listener.fileno()}'
        arguments = ["--config", str(file), "--listen", address, "--driver", driver, "--shards", "2"]
        with output.open("w") as written:
            process = subprocess.Popen(
                ["sh", "-c", command, BINARY, *arguments],
                stdout=written,
                stderr=subprocess.STDOUT,
                pass_fds=[listener.fileno()],
            )
        return process, output

    def test_the_unit_files_are_right(self):
        analyze = shutil.which("systemd-analyze")
        self.assertIsNotNone(analyze, "tests/run installs systemd")
        with tempfile.TemporaryDirectory(prefix="trunkline-test-") as folder:
            for name in ("trunkline.service", "trunkline.socket"):
                text = (TUNING / name).read_text()
                (pathlib.Path(folder) / name).write_text(text.replace("/usr/local/bin/trunkline", str(BINARY)))
            unit = os.path.join(folder, "trunkline.service")
            verified = subprocess.run(
                [analyze, "verify", unit, os.path.join(folder, "trunkline.socket")],
                capture_output=True, text=True, timeout=DEADLINE_SECONDS,
            )
            self.assertEqual((verified.returncode, verified.stderr), (0, ""), verified.stderr)
            exposed = subprocess.run(
                [analyze, "security", "--offline=true", unit],
                capture_output=True, text=True, timeout=DEADLINE_SECONDS,
            )
            found = re.search(r"exposure level for trunkline\.service: ([\d.]+)", exposed.stdout)
            self.assertLessEqual(float(found.group(1)), 2.0, exposed.stdout)


if __name__ == "__main__":
    unittest.main()

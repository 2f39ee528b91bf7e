"""The suite that centrifuge-python is published with, unmodified, against the daemon: served from the variables that its
authors start Centrifugo with, by --centrifugo.
"""

import importlib.metadata
import os
import pathlib
import re
import signal
import subprocess
import sys
import unittest
from concurrent.futures import ThreadPoolExecutor

from daemon import DRIVERS, Daemon

HERE = pathlib.Path(__file__).parent
VERSION = importlib.metadata.version("centrifuge-python")
# tests/run has fetched it.
SUITE = HERE / ".venv" / "suites" / f"centrifuge_python-{VERSION}"

# All of it, the cases that need no server included.
AGAINST_THE_DAEMON = ["tests.test_client"]
# The rest brings a server of its own, or needs none: what it shows is the SDK's alone, whatever the daemon does.
FAKE = "against the fake server that is part of the suite"
WITHOUT_THE_DAEMON = {
    "test_attempts": FAKE,
    "test_background_tasks": "tasks of the SDK, which never connects",
    "test_cancelled_command": FAKE,
    "test_command_errors": FAKE,
    "test_filter": f"the builder of filters, and {FAKE}; filters against the daemon: test_centrifuge.py, tests/js/filters.test.mjs",
    "test_fossil": "the SDK's decoder of deltas, on files; deltas of the daemon: tests/js/delta.test.mjs",
    "test_handler_exceptions": FAKE,
    "test_json_handshake": f"{FAKE}; a handshake without a subprotocol: tests/js/protobuf.test.mjs",
    "test_late_timers": FAKE,
    "test_position": FAKE,
    "test_proxy": f"HTTP proxies on the client's side, {FAKE}",
    "test_push_routing": FAKE,
    "test_ready": "waiting in the SDK, without a server",
    "test_reconnect": FAKE,
    "test_refresh": FAKE,
    "test_remove_subscription": FAKE,
    "test_ssl": f"the client's verification of certificates, {FAKE}; TLS of the daemon: test_tls.py",
    "test_state_invalidation": FAKE,
    "test_static_tokens": FAKE,
    "test_sub_refresh": FAKE,
    "test_teardown": FAKE,
    "test_unsubscribe": FAKE,
    "test_utils": "functions of the SDK",
}
# Cases that are a matter of luck, with any server: they may be tried several times.
RACES = {
    "tests.test_client.TestAutoRecovery.test_auto_recovery": "disconnects without waiting until it is subscribed: with"
    " the reply under way there is no position to recover from",
    "tests.test_client.TestJoinLeave.test_join_leave": "as the next one",
    "tests.test_client.TestPresenceTwoClients.test_presence_two_clients": "the second client subscribes without waiting until"
    " the first one has: on another connection it may be the first, and nobody hears it join",
}
ATTEMPTS_MAX = 5
# Cases wait without a deadline of their own.
DEADLINE_SECONDS = 240
RACE_SECONDS = 20


def their_variables():
    """What their docker-compose.yml sets. Where it listens is ours."""
    lines = (SUITE / "docker-compose.yml").read_text().splitlines()
    found = (re.match(r"\s*- (CENTRIFUGO_\w+)=(.*)", line) for line in lines)
    return {match.group(1): match.group(2) for match in found if match}


class TheirSuite(unittest.TestCase):
    def test_every_module_of_the_suite_is_accounted_for(self):
        modules = {path.stem for path in (SUITE / "tests").glob("test_*.py")}
        served = {name.removeprefix("tests.") for name in AGAINST_THE_DAEMON}
        self.assertEqual(modules, served | WITHOUT_THE_DAEMON.keys())
        for name in sorted(WITHOUT_THE_DAEMON):
            text = (SUITE / "tests" / f"{name}.py").read_text()
            self.assertNotIn("require_centrifugo", text, f"{name} needs a server")

    def test_passes_on_every_driver(self):
        # Side by side: most of the time its cases wait.
        with ThreadPoolExecutor(len(DRIVERS)) as pool:
            runs = [(driver, pool.submit(self.run_against, driver)) for driver in DRIVERS]
            for driver, run in runs:
                with self.subTest(driver=driver):
                    run.result()

    def run_against(self, driver):
        variables = their_variables()
        self.assertGreater(len(variables), 20)
        daemon = Daemon(driver, settings=variables, centrifugo=True)
        try:
            port = daemon.address.rpartition(":")[2]
            passed, output = self.run_cases(port, [*AGAINST_THE_DAEMON, "--without", *RACES], DEADLINE_SECONDS)
            self.assertTrue(passed, output[-20000:])
            ran = re.search(r"^Ran (\d+) tests", output, re.MULTILINE)
            self.assertTrue(ran and int(ran.group(1)) + len(RACES) > 60, output[-2000:])
            self.assertNotRegex(output, r"skipped=")
            for case in RACES:
                passed = False
                for _ in range(ATTEMPTS_MAX):
                    if not passed:
                        passed, output = self.run_cases(port, [case], RACE_SECONDS)
                self.assertTrue(passed, f"{case} never passed\n{output[-20000:]}")
            self.assertEqual(daemon.stop(), 0, daemon.output)
        finally:
            daemon.kill()

    def run_cases(self, port, names, deadline):
        """Whether they passed, and what they said."""
        suite = subprocess.Popen(
            [sys.executable, str(HERE / "theirs.py"), port, *names],
            cwd=SUITE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = suite.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            os.killpg(suite.pid, signal.SIGKILL)
            output, _ = suite.communicate()
            return False, f"no end after {deadline} s\n{output}"
        return suite.returncode == 0, output


if __name__ == "__main__":
    unittest.main()

"""Dashboards and rules: made from their tables, of metrics that exist, and with data in a real Prometheus."""

import importlib.util
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.parse
import urllib.request

from daemon import API_KEY, DEADLINE_SECONDS, ROOT, Daemon, until

FOLDER = ROOT / "packaging" / "monitoring"

_spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)

NAMES = re.compile(r"\btrunkline_[a-z0-9_]+")


def fetch(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=DEADLINE_SECONDS) as response:
        return response.read().decode()


def publish(daemon, number):
    body = json.dumps({"channel": "news", "data": {"n": number}}).encode()
    request = urllib.request.Request(f"{daemon.api_url}/publish", data=body, headers={"X-API-Key": API_KEY})
    urllib.request.urlopen(request, timeout=DEADLINE_SECONDS).read()


class Monitoring(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon("mio", tables='\n[[namespace]]\nname = "chat"\n')
        # A subscriber, so that publications are written to somebody.
        host, port = self.daemon.address.split(":")
        self.subscriber = socket.create_connection((host, int(port)), DEADLINE_SECONDS)
        self.subscriber.sendall(b"GET /stream?channel=news HTTP/1.0\r\nHost: localhost\r\n\r\n")
        self.assertIn(b" 200 ", self.subscriber.recv(4096))
        publish(self.daemon, 0)

    def tearDown(self):
        self.subscriber.close()
        self.daemon.kill()

    def test_what_is_beside_the_tables_is_made_from_them(self):
        subprocess.run([sys.executable, FOLDER / "generate.py", "--check"], check=True)

    def test_every_metric_that_is_named_exists(self):
        text = fetch(f"http://{self.daemon.address}/metrics", **{"X-API-Key": API_KEY})
        samples = {re.split(r"[ {]", line)[0] for line in text.splitlines() if line and line[0] != "#"}
        named = {name for query in generate.queries() for name in NAMES.findall(query)}
        self.assertGreater(len(named), 20)
        self.assertEqual(sorted(named - samples), [])
        # Causes that rules look for are among those that are counted.
        for cause in re.findall(r'cause="([a-z0-9_]+)"', " ".join(generate.queries())):
            self.assertIn(f'trunkline_faults_total{{cause="{cause}"}}', text)

    def test_prometheus_accepts_the_rules_and_has_data_for_every_query(self):
        subprocess.run([shutil.which("promtool"), "check", "rules", FOLDER / "trunkline.rules.yml"], check=True,
                       stdout=subprocess.DEVNULL)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = "127.0.0.1:%d" % free.getsockname()[1]
        with tempfile.TemporaryDirectory(prefix="trunkline-test-") as folder:
            configuration = pathlib.Path(folder) / "prometheus.yml"
            configuration.write_text(json.dumps({
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(FOLDER / "trunkline.rules.yml")],
                "scrape_configs": [{
                    "job_name": "trunkline", "static_configs": [{"targets": [self.daemon.address]}],
                    "params": {"api_key": [API_KEY]},
                }],
            }))
            prometheus = subprocess.Popen(
                [shutil.which("prometheus"), f"--config.file={configuration}", f"--storage.tsdb.path={folder}/data",
                 f"--web.listen-address={address}", "--log.level=error"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                self._every_query_has_data(address)
            finally:
                prometheus.kill()
                prometheus.wait()

    def _every_query_has_data(self, address):
        def samples(query):
            try:
                answer = fetch(f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
            except OSError:
                return []
            return json.loads(answer)["data"]["result"]

        end = time.monotonic() + DEADLINE_SECONDS
        # What an alert compares, without the comparison: whether it fires is not the question.
        waiting = [re.sub(r" > [0-9.]+( or vector\(0\))?$", "", query) for query in generate.queries()]
        number = 0
        while waiting and time.monotonic() < end:
            number += 1
            publish(self.daemon, number)
            waiting = [query for query in waiting if not samples(query)]
            time.sleep(0.2)
        self.assertEqual(waiting, [])
        rules = json.loads(fetch(f"http://{address}/api/v1/rules"))["data"]["groups"][0]["rules"]
        self.assertEqual(len(rules), len(generate.ALERTS))
        until(lambda: all(rule["health"] == "ok" for rule in json.loads(
            fetch(f"http://{address}/api/v1/rules"))["data"]["groups"][0]["rules"]), "every rule is evaluated")


if __name__ == "__main__":
    unittest.main()

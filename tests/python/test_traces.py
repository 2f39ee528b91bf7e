"""Traces: what comes with `traceparent` goes on to hooks, taps and a backend of traces, whose published schema reads it."""

import base64
import http.server
import json
import threading
import unittest
import urllib.request

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from daemon import API_KEY, DEADLINE_SECONDS, DRIVERS, until
from subscriber import Subscriber
from test_slow_stages import Node

TRACE = "4bf92f3577b34da6a3ce929d0e0e473"
PARENT = "00f067aa0ba902b7"


def traceparent(number, flags="01"):
    return f"00-{TRACE}{number}-{PARENT}-{flags}"


class Collector(http.server.ThreadingHTTPServer):
    """Takes spans, and answers hooks of the daemon."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans, self.resources, self.hooks, self.faults, self.status = [], [], [], [], 200
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def decode(self, text):
        """Strictly: an unknown field or a wrong type is a fault. Ids are hex in OTLP, and base64 in the JSON of Protobuf."""
        body = json.loads(text)
        for resource in body["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    for key in ("traceId", "spanId", "parentSpanId"):
                        if key in span:
                            span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
        request = json_format.ParseDict(body, ExportTraceServiceRequest())
        for resource in request.resource_spans:
            self.resources.append({each.key: each.value.string_value for each in resource.resource.attributes})
            for scope in resource.scope_spans:
                assert scope.scope.name == "trunkline"
                self.spans.extend(scope.spans)

    def of(self, number):
        """Spans of that trace, by name."""
        return {span.name: span for span in self.spans if span.trace_id.hex() == f"{TRACE}{number}"}

    def close(self):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"]))
        answer = b"{}"
        if self.path == "/v1/traces":
            try:
                assert self.headers["Content-Type"] == "application/json"
                self.server.decode(text)
            except Exception as fault:
                self.server.faults.append(repr(fault))
        elif self.path == "/connect":
            self.server.hooks.append(self.headers["traceparent"])
            answer = b'{"result": {"user": "ann"}}'
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class Traces(unittest.TestCase):
    def start(self, driver, **settings):
        collector = Collector()
        self.addCleanup(collector.close)
        hook = f'\n[[hook]]\nname = "who"\nendpoint = "{collector.url}/connect"\n'
        node = Node(self, driver, {}, hook, CLIENT_CONNECT_HOOK="who", **settings)
        return node, collector

    def publish(self, node, channel, **fields):
        body = json.dumps({"channel": channel, "data": 1}).encode()
        request = urllib.request.Request(f"{node.api}/api/publish", data=body, headers={"X-API-Key": API_KEY, **fields})
        with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as response:
            self.assertIn("result", json.loads(response.read()))

    def connect(self, node, value):
        return Subscriber(node.daemon.address, fields=f"traceparent: {value}\r\n")

    def test_what_comes_with_a_trace_is_part_of_it(self):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                collector = Collector()
                self.addCleanup(collector.close)
                node, backend = self.start(driver, TRACES_ENDPOINT=collector.url)
                tap = urllib.request.urlopen(
                    urllib.request.Request(f"{node.api}/api/tap?channel=news", headers={"X-API-Key": API_KEY}),
                    timeout=DEADLINE_SECONDS,
                )
                client = self.connect(node, traceparent(1))
                quiet = self.connect(node, traceparent(2, "00"))
                client.subscribe("news")
                quiet.subscribe("news")
                self.publish(node, "news", traceparent=traceparent(3))
                self.publish(node, "news", traceparent=traceparent(4, "00"))
                self.publish(node, "news", traceparent="00-hello")
                self.publish(node, "news", traceparent=traceparent(5))
                until(lambda: collector.of(5), lambda: collector.faults or collector.spans)
                self.assertEqual(collector.faults, [])
                self.assertEqual(collector.resources[0]["service.name"], "trunkline")

                connected, called = (until(lambda: collector.of(1).get(name), name) for name in ("connect", "hook connect"))
                self.assertEqual(connected.parent_span_id.hex(), PARENT)
                self.assertEqual((connected.kind, called.kind), (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT))
                self.assertEqual(called.parent_span_id, connected.span_id)
                # The wall clock is read for each of them: it may be set meanwhile, by less than this.
                clock = 10**8
                self.assertLess(connected.start_time_unix_nano, called.start_time_unix_nano + clock)
                self.assertLess(called.end_time_unix_nano, connected.end_time_unix_nano + clock)
                self.assertLessEqual(called.start_time_unix_nano, called.end_time_unix_nano)
                self.assertIn(f"00-{TRACE}1-{called.span_id.hex()}-01", backend.hooks)
                (unsampled,) = [value for value in backend.hooks if value.startswith(f"00-{TRACE}2-")]
                self.assertTrue(unsampled.endswith("-00") and PARENT not in unsampled, unsampled)

                published = until(lambda: collector.of(3).get("publish"), "the first publication")
                self.assertEqual(published.parent_span_id.hex(), PARENT)
                self.assertEqual(published.status.code, Status.STATUS_CODE_UNSET)
                stages = [event.name for event in published.events]
                self.assertEqual(set(stages), {"accepted", "appended", "first_write", "last_write"})
                self.assertEqual(stages[0], "accepted")
                times = [published.start_time_unix_nano, *(event.time_unix_nano for event in published.events)]
                self.assertTrue(all(later - earlier > -clock for earlier, later in zip(times, times[1:])), times)
                self.assertEqual((collector.of(2), collector.of(4)), ({}, {}), "whose senders do not trace them")

                lines = []
                while not lines or f"{TRACE}5" not in lines[-1].get("traceparent", ""):
                    lines.append(json.loads(tap.readline()))
                said = [line["traceparent"][:35] for line in lines if line["what"] == "published" and "traceparent" in line]
                self.assertEqual(said, [traceparent(number)[:35] for number in (3, 4, 5)])
                tap.close()

                exported = node.metric("trunkline_trace_spans_exported_total")
                self.assertGreaterEqual(exported, 4)
                self.assertEqual(node.metric("trunkline_trace_spans_dropped_total"), 0)
                collector.status = 503
                self.publish(node, "news", traceparent=traceparent(6))
                until(lambda: node.metric("trunkline_trace_spans_dropped_total") == 1, "it is dropped, and counted")
                client.close()
                quiet.close()

    def test_what_comes_without_one_is_traced_by_its_share(self):
        settings = {"TRACES_SAMPLED_PER_MILLION": "1000000", "TRACES_FROM_CLIENTS": "false"}
        collector = Collector()
        self.addCleanup(collector.close)
        node, backend = self.start("mio", TRACES_ENDPOINT=collector.url + "/v1/traces", **settings)
        client = self.connect(node, traceparent(1))
        self.publish(node, "news")
        names = lambda: {span.name: span for span in collector.spans}
        spans = until(lambda: len(names()) == 3 and names(), lambda: collector.faults or collector.spans)
        self.assertEqual((spans["publish"].parent_span_id, spans["connect"].parent_span_id), (b"", b""))
        self.assertEqual(spans["hook connect"].trace_id, spans["connect"].trace_id)
        self.assertNotEqual(spans["publish"].trace_id, spans["connect"].trace_id)
        self.assertEqual(collector.of(1), {}, "what a client says is not taken")
        self.assertEqual(backend.hooks, [f"00-{spans['connect'].trace_id.hex()}-{spans['hook connect'].span_id.hex()}-01"])
        client.close()

    def test_without_a_destination_nothing_is_traced(self):
        node, backend = self.start("mio")
        client = self.connect(node, traceparent(1))
        self.publish(node, "news", traceparent=traceparent(2))
        self.assertEqual(backend.hooks, [None])
        self.assertNotIn("trunkline_trace_spans", node.get("/metrics"))
        client.close()


if __name__ == "__main__":
    unittest.main()

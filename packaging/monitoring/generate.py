#!/usr/bin/env python3
"""Makes the Grafana dashboard and the Prometheus rules beside this file from the tables below.

    packaging/monitoring/generate.py            writes trunkline.dashboard.json and trunkline.rules.yml
    packaging/monitoring/generate.py --check    exits 1 when they are not what the tables say

A test holds every metric that is named here against a running daemon.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
DASHBOARD = HERE / "trunkline.dashboard.json"
RULES = HERE / "trunkline.rules.yml"

RATE = "[5m]"

# Row, panel, unit, queries with their legends.
PANELS = [
    ("Clients", "Connections", "short", [
        ("sum by (instance) (trunkline_connections_active)", "connections {{instance}}"),
        ("sum by (instance) (trunkline_clients_active)", "clients {{instance}}"),
    ]),
    ("Clients", "Connects and closes", "ops", [
        (f"sum(rate(trunkline_clients_connected_total{RATE}))", "connects"),
        (f"sum(rate(trunkline_connections_closed_total{RATE}))", "closes"),
    ]),
    ("Clients", "Refused, closed, dropped", "ops", [
        (f"sum by (cause) (rate(trunkline_faults_total{RATE})) > 0 or vector(0)", "{{cause}}"),
    ]),
    ("Clients", "Ping round trip", "s", [
        (f"histogram_quantile(0.5, sum by (le) (rate(trunkline_ping_round_trip_seconds_bucket{RATE})))", "p50"),
        (f"histogram_quantile(0.99, sum by (le) (rate(trunkline_ping_round_trip_seconds_bucket{RATE})))", "p99"),
    ]),
    ("Publications", "Publications and deliveries", "ops", [
        (f"sum(rate(trunkline_publications_total{RATE}))", "publications"),
        (f"sum(rate(trunkline_deliveries_total{RATE}))", "deliveries"),
    ]),
    ("Publications", "Time to each stage, p99", "s", [
        (f"histogram_quantile(0.99, sum by (le, stage) (rate(trunkline_stage_seconds_bucket{RATE})))", "{{stage}}"),
    ]),
    ("Publications", "Time to the last write by namespace, p99", "s", [
        (f'histogram_quantile(0.99, sum by (le, namespace) (rate(trunkline_stage_seconds_bucket{{stage="last_write"}}{RATE})))',
         "{{namespace}}"),
    ]),
    ("Publications", "Channels and subscriptions", "short", [
        ("sum(trunkline_channels_active)", "channels"),
        ("sum(trunkline_subscriptions_active)", "subscriptions"),
    ]),
    ("Publications", "Time behind of clients that lagged, p99", "s", [
        (f"histogram_quantile(0.99, sum by (le) (rate(trunkline_lag_seconds_bucket{RATE})))", "p99"),
    ]),
    ("Publications", "Recoveries", "ops", [
        (f"sum(rate(trunkline_recoveries_total{RATE}))", "recovered"),
        (f"sum(rate(trunkline_recoveries_lost_total{RATE}))", "not whole"),
    ]),
    ("Backend", "Time of hook calls", "s", [
        (f"histogram_quantile(0.5, sum by (le) (rate(trunkline_hook_call_seconds_bucket{RATE})))", "p50"),
        (f"histogram_quantile(0.99, sum by (le) (rate(trunkline_hook_call_seconds_bucket{RATE})))", "p99"),
    ]),
    ("Backend", "Hook calls", "ops", [
        (f"sum(rate(trunkline_questions_asked_total{RATE}))", "asked"),
        (f"sum(rate(trunkline_questions_denied_total{RATE}))", "denied"),
        (f"sum(rate(trunkline_questions_unavailable_total{RATE}))", "not answered"),
    ]),
    ("Backend", "Events", "ops", [
        (f"sum(rate(trunkline_events_told_total{RATE}))", "given"),
        (f"sum(rate(trunkline_events_lost_total{RATE}))", "lost"),
    ]),
    ("Shards", "Busy", "percent", [("trunkline_shard_busy_percent", "{{instance}} {{shard}}")]),
    ("Shards", "Turn of the loop, p99", "s", [
        (f"histogram_quantile(0.99, sum by (le, shard) (rate(trunkline_shard_turn_seconds_bucket{RATE})))", "{{shard}}"),
    ]),
    ("Shards", "Waiting", "short", [
        ("trunkline_inbox_messages", "inbox {{shard}}"),
        ("trunkline_mail_waiting", "mail {{shard}}"),
        ("trunkline_lagging_connections", "lagging {{shard}}"),
    ]),
    ("Shards", "Payload kept", "bytes", [
        ("sum(trunkline_undelivered_bytes)", "undelivered"),
        ("sum(trunkline_held_back_bytes)", "held back"),
        ("sum(trunkline_streams_bytes)", "for those that lag"),
        ("sum(trunkline_client_buffers_bytes)", "clients' buffers"),
    ]),
    ("Process", "Memory", "bytes", [("trunkline_process_resident_memory_bytes", "{{instance}}")]),
    ("Process", "Processor", "percentunit", [
        (f"rate(trunkline_process_cpu_seconds_total{RATE})", "{{instance}}"),
    ]),
    ("Process", "Sent and received", "Bps", [
        (f"sum(rate(trunkline_sent_bytes_total{RATE}))", "sent"),
        (f"sum(rate(trunkline_received_bytes_total{RATE}))", "received"),
    ]),
    ("Process", "TLS handshakes", "ops", [
        (f"sum(rate(trunkline_tls_handshakes_total{RATE}))", "done"),
        (f"sum(rate(trunkline_tls_handshakes_delayed_total{RATE}))", "delayed"),
    ]),
    ("Process", "Connections moved by upgrades", "short", [
        ("sum(trunkline_upgrade_connections_moved_total)", "moved"),
        ("sum(trunkline_upgrade_connections_closed_total)", "closed"),
    ]),
    ("Process", "API", "ops", [
        (f"sum by (method, code) (rate(trunkline_api_requests_total{RATE}))", "{{method}} {{code}}"),
    ]),
]

# Alert, expression, how long, severity, what it means.
ALERTS = [
    ("TrunklineSlowLastWrite",
     'histogram_quantile(0.99, sum by (le, instance) (rate(trunkline_stage_seconds_bucket{stage="last_write"}[5m]))) > 1',
     "5m", "warning", "One of a hundred publications takes more than a second to its last subscriber."),
    ("TrunklineShardBusy", "trunkline_shard_busy_percent > 90", "10m", "warning", "A shard has no time left."),
    ("TrunklineInboxFull", 'increase(trunkline_faults_total{cause="inbox_full"}[5m]) > 0', "5m", "critical",
     "Publications are refused, for a shard does not keep up."),
    ("TrunklineClientsSlow", 'rate(trunkline_faults_total{cause="disconnect_3008"}[5m]) > 1', "10m", "warning",
     "More than one client a second is closed for reading slowly."),
    ("TrunklineNoPong", 'rate(trunkline_faults_total{cause="disconnect_3012"}[5m]) > 10', "10m", "warning",
     "Many clients do not answer pings: a network or a proxy loses them."),
    ("TrunklineConnectionLimit", 'increase(trunkline_faults_total{cause="connection_limit"}[5m]) > 0', "5m", "critical",
     "Clients are refused: the node has as many connections as it may have."),
    ("TrunklineEventsLost", "increase(trunkline_events_lost_total[5m]) > 0", "0m", "critical",
     "Events for the backend found no room."),
    ("TrunklineHooksUnavailable", "rate(trunkline_questions_unavailable_total[5m]) > 1", "5m", "critical",
     "The backend does not answer hook calls."),
    ("TrunklineLogNotRead", "increase(trunkline_log_lines_dropped_total[5m]) > 0", "5m", "warning",
     "Log lines are dropped: nobody reads stderr."),
]


def dashboard():
    panels, y, row, x = [], 0, None, 0
    for title_of_row, title, unit, queries in PANELS:
        if title_of_row != row:
            row, x = title_of_row, 0
            y += 0 if not panels else 8
            panels.append({"type": "row", "title": row, "id": len(panels) + 1, "collapsed": False,
                           "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "panels": []})
            y += 1
        panels.append({
            "type": "timeseries", "title": title, "id": len(panels) + 1,
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "gridPos": {"h": 8, "w": 6, "x": x, "y": y},
            "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
            "targets": [{"expr": query, "legendFormat": legend, "refId": chr(65 + at)}
                        for at, (query, legend) in enumerate(queries)],
        })
        x += 6
    return json.dumps({
        "title": "trunkline", "uid": "trunkline", "schemaVersion": 38, "version": 1, "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"}, "tags": ["trunkline"], "editable": True,
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    }, indent=1) + "\n"


def rules():
    lines = ["# Made by generate.py: change its tables instead.", "groups:", "  - name: trunkline", "    rules:"]
    for name, expression, duration, severity, summary in ALERTS:
        lines += [
            f"      - alert: {name}",
            f"        expr: {json.dumps(expression)}",
            f"        for: {duration}",
            f"        labels: {{ severity: {severity} }}",
            f"        annotations: {{ summary: {json.dumps(summary)} }}",
        ]
    return "\n".join(lines) + "\n"


def queries():
    """Every expression of the dashboard and the rules."""
    return [query for *_, panel in PANELS for query, _ in panel] + [alert[1] for alert in ALERTS]


def main():
    made = {DASHBOARD: dashboard(), RULES: rules()}
    if "--check" in sys.argv[1:]:
        old = [path.name for path, text in made.items() if not path.exists() or path.read_text() != text]
        if old:
            sys.exit(f"not what the tables say: {', '.join(old)}")
        return
    for path, text in made.items():
        path.write_text(text)


if __name__ == "__main__":
    main()

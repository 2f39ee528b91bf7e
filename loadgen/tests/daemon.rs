//! The generator against the real daemon: every scenario, and that what it counts is what happened.

mod common;

use common::{LOADGEN, Server, loadgen};

#[test]
fn fan_out_reaches_everybody_in_order() {
    let server = Server::trunkline();
    let pid = server.child.id().to_string();
    let url = server.url();
    for driver in ["auto", "mio"] {
        let outcome = loadgen(&[
            "fanout",
            "--url",
            &url,
            "--api-key",
            "k",
            "-n",
            "60",
            "-c",
            "6",
            "--per-connection",
            "2",
            "--rate",
            "100",
            "--seconds",
            "1s",
            "--warm-up",
            "0s",
            "--driver",
            driver,
            "--pid",
            &pid,
        ]);
        outcome.assert_passed();
        let phase = outcome.phase("fan-out");
        let published = phase["published"].as_u64().unwrap();
        assert!(published >= 50, "{}", outcome.text);
        // 60 connections of 2 channels each over 6 channels: 20 a channel.
        assert_eq!(outcome.counter("fan-out", "deliveries"), published * 20);
        assert_eq!(phase["publications_complete"].as_u64(), Some(published));
        assert_eq!(phase["latencies"]["delivery"]["count"].as_u64(), Some(published * 20));
        assert_eq!(phase["latencies"]["last_subscriber"]["count"].as_u64(), Some(published));
        let figures = outcome.json["figures"].as_array().unwrap();
        for name in ["fan-out: server cpu a delivery", "server's own memory a connection"] {
            assert!(figures.iter().any(|figure| figure["name"] == name), "{name}: {}", outcome.text);
        }
    }
}

#[test]
fn idle_connections_over_several_rings_all_get_the_broadcast() {
    let server = Server::trunkline();
    let outcome = loadgen(&[
        "idle",
        "--url",
        &server.url(),
        "--api-key",
        "k",
        "-n",
        "300",
        "-c",
        "3",
        "--rings",
        "4",
        "--threads",
        "2",
        "--hold",
        "300ms",
        "--broadcast",
        "--open-rate",
        "2000",
    ]);
    outcome.assert_passed();
    assert_eq!(outcome.phase("open")["ready"], 300);
    assert_eq!(outcome.counter("broadcast", "deliveries"), 300);
    assert_eq!(outcome.phase("broadcast")["published"], 3);
}

#[test]
fn echo_is_answered_and_an_rpc_without_a_backend_is_counted_as_an_error() {
    let server = Server::trunkline();
    let echo = format!("ws://{}/echo", server.addr);
    let outcome = loadgen(&["echo", "--url", &echo, "-n", "20", "--rate", "500", "--seconds", "1s"]);
    outcome.assert_passed();
    let (requests, replies) = (outcome.counter("echo", "requests"), outcome.counter("echo", "replies"));
    assert!(requests >= 250 && requests == replies, "{requests} {replies}");
    let outcome = loadgen(&["rpc", "--url", &server.url(), "-n", "5", "--rate", "50", "--seconds", "1s"]);
    assert_eq!(outcome.code, 1);
    assert_eq!(outcome.counter("rpc", "replies"), outcome.failures("request answered error 108"));
    assert!(outcome.failures("request answered error 108") > 0);
}

#[test]
fn storms_open_and_reopen_everything_and_recover_what_was_missed() {
    let server = Server::trunkline();
    let url = server.url();
    let outcome = loadgen(&["connect-storm", "--url", &url, "-n", "400"]);
    outcome.assert_passed();
    assert_eq!(outcome.counter("open", "ready"), 400);
    let outcome = loadgen(&[
        "reconnect-storm",
        "--url",
        &url,
        "--api-key",
        "k",
        "-n",
        "200",
        "-c",
        "2",
        "--rate",
        "50",
        "--recover",
        "--rounds",
        "2",
        "--spread",
        "200ms",
    ]);
    outcome.assert_passed();
    for round in ["storm 1", "storm 2"] {
        assert_eq!(outcome.counter(round, "cut"), 200);
        assert_eq!(outcome.counter(round, "ready"), 200);
        assert_eq!(outcome.counter(round, "recovered"), 200);
        assert_eq!(outcome.counter(round, "unrecovered"), 0);
        assert_eq!(outcome.phase(round)["ready"], 200);
    }
}

#[test]
fn slow_readers_cost_the_others_nothing() {
    let server = Server::trunkline();
    let outcome = loadgen(&[
        "slow-readers",
        "--url",
        &server.url(),
        "--api-key",
        "k",
        "-n",
        "40",
        "-c",
        "2",
        "--slow",
        "4",
        "--rate",
        "100",
        "--payload",
        "20000",
        "--seconds",
        "1s",
        "--receive-buffer",
        "4096",
    ]);
    outcome.assert_passed();
    let phase = outcome.phase("with slow readers");
    let published = phase["published"].as_u64().unwrap();
    assert_eq!(outcome.counter("with slow readers", "deliveries"), published * 18, "{}", outcome.text);
}

#[test]
fn a_scenario_file_and_every_output() {
    let server = Server::trunkline();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let scenario = "[[phase]]\nname = \"up\"\nopen = 50\n\n[[phase]]\nname = \"busy\"\npublish = 50.0\nhold = \"1500ms\"\n\
                    \n[[phase]]\nname = \"cut\"\ncut = 0.5\n\n[[phase]]\nname = \"once\"\nburst = 3\n";
    std::fs::write(path("mixed.toml"), scenario).unwrap();
    let outcome = loadgen(&[
        "mixed",
        &path("mixed.toml"),
        "--url",
        &server.url(),
        "--api-key",
        "k",
        "--with-floor",
        "--pid",
        &server.child.id().to_string(),
        "--html",
        &path("r.html"),
        "--hdr",
        &path("r.hdr"),
    ]);
    outcome.assert_passed();
    assert_eq!(outcome.counter("once", "deliveries"), 150);
    assert!(outcome.counter("cut", "ready") > 0);
    let floor = &outcome.json["floor"];
    assert_eq!(floor["shortfalls"], serde_json::json!([]), "{}", outcome.text);
    let figures = outcome.json["figures"].as_array().unwrap();
    let cpu = figures.iter().find(|figure| figure["name"] == "busy: server cpu a delivery").unwrap();
    assert!(cpu["value"].as_f64().unwrap() > 0.0 && cpu["floor"].as_f64().unwrap() > 0.0);
    let html = std::fs::read_to_string(path("r.html")).unwrap();
    assert!(html.contains("Latency by percentile") && html.contains("Memory over connections"));
    for outside in ["src=", "href=", "@import", "url("] {
        assert!(!html.contains(outside), "the page stands alone: {outside}");
    }
    for log in ["r.hdr", "r.hdr.floor"] {
        assert!(std::fs::read_to_string(path(log)).unwrap().lines().count() > 4, "{log}");
    }
}

#[test]
fn a_wrong_key_and_a_closed_door_are_told_by_cause() {
    let server = Server::trunkline();
    let outcome = loadgen(&[
        "fanout",
        "--url",
        &server.url(),
        "--api-key",
        "wrong",
        "-n",
        "5",
        "--rate",
        "20",
        "--seconds",
        "1s",
    ]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.failures("publish answered 401") > 5, "{}", outcome.text);
    let url = format!("ws://{}/nowhere", server.addr);
    let outcome = loadgen(&["connect-storm", "--url", &url, "-n", "5"]);
    assert_eq!((outcome.code, outcome.failures("upgrade answered 404")), (1, 5));
    let url = server.url();
    let outcome = loadgen(&["connect-storm", "--url", &url, "-n", "5", "--token", "not-a-token"]);
    assert_eq!(outcome.code, 1);
    assert_eq!(outcome.json["target"]["phases"][0]["counters"]["failed"], 5, "{}", outcome.text);
}

#[test]
fn arguments_that_make_no_sense_are_refused_before_anything_begins() {
    for arguments in [
        &["fanout", "--url", "wss://127.0.0.1:1/"][..],
        &["fanout", "--url", "nowhere"],
        &["fanout", "--rate", "-1"],
        &["fanout", "--per-connection", "3"],
        &["fanout", "--channel-prefix", "a\"b"],
        &["fanout", "--header", "no field"],
        &["idle", "--hold", "soon"],
        &["mixed", "/nonexistent.toml"],
        &["idle", "--pid", "4294967295"],
        &["connect-storm", "-n", "50000", "--driver", "io-uring", "--rings", "1", "--threads", "1"],
    ] {
        let output = std::process::Command::new(LOADGEN).args(arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!output.stderr.is_empty());
    }
}

//! The generator against the real daemon: every scenario, and that what it counts is what happened.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use common::{LOADGEN, Server, loadgen, request, serve};

/// The forms of the daemon's own protocol.
const FORMS: [&str; 2] = ["centrifuge", "centrifuge-protobuf"];

/// Half of the connections reach each of two daemons, in plain and in storms beside them; the report names both.
#[test]
fn connections_go_to_several_servers_in_turn() {
    let servers = [Server::trunkline(), Server::trunkline()];
    let urls = [servers[0].url(), servers[1].url()];
    for driver in ["auto", "mio"] {
        let outcome = loadgen(&[
            "connect-storm",
            "--url",
            &urls[0],
            "--url",
            &urls[1],
            "-n",
            "41",
            "--threads",
            "2",
            "--driver",
            driver,
        ]);
        outcome.assert_passed();
        let named = outcome.json["target"]["address"].as_str().unwrap().to_owned();
        for url in &urls {
            let place = url.split('/').nth(2).unwrap();
            assert!(named.contains(place) && outcome.text.contains(place), "{named}: {}", outcome.text);
        }
    }
    let came = servers.each_ref().map(connections);
    assert_eq!(came, [2 * 21, 2 * 20]);
}

/// How many clients have connected to a server so far.
fn connections(server: &Server) -> u64 {
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\nX-API-Key: k\r\n\r\n").unwrap();
    let mut metrics = String::new();
    stream.read_to_string(&mut metrics).unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix("trunkline_clients_connected_total "));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no such metric in {metrics}"))
}

#[test]
fn fan_out_reaches_everybody_in_order() {
    let server = Server::trunkline();
    let pid = server.child.id().to_string();
    let url = server.url();
    for (driver, profile) in [("auto", FORMS[0]), ("mio", FORMS[0]), ("auto", FORMS[1]), ("mio", FORMS[1])] {
        let outcome = loadgen(&[
            "fanout",
            "--profile",
            profile,
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

/// Users with tokens, a channel of their own and groups: what is said reaches all of them in order and once, also those
/// whose connection breaks meanwhile, and reads of the history are no deliveries.
#[test]
fn a_chat_loses_nothing_while_users_come_and_go() {
    let chat = "allow_subscribe_for_client = true\npresence = true\njoin_leave = true\nhistory_size = 1000\n\
                history_ttl = \"60s\"\nallow_recovery = true\nallow_positioning = true\n\
                allow_history_for_subscriber = true\n";
    let namespaces = ["group", "user"].map(|name| format!("[[namespace]]\nname = \"{name}\"\n{chat}"));
    let more = format!("[client.token]\nhmac_secret = \"s\"\n{}", namespaces.concat());
    let server = Server::trunkline_with("", &more);
    for form in FORMS {
        let url = server.url();
        let target = ["--profile", form, "--url", &url, "--api-key", "k", "-n", "40", "--threads", "2"];
        let channels =
            ["-c", "10", "--per-connection", "3", "--channel-prefix", "group:", "--personal-prefix", "user:"];
        let users = ["--token-secret", "s", "--join-leave", "--messages", "60", "--reads", "60"];
        let times = ["--reconnects", "720", "--settle", "0s", "--seconds", "2s", "--warm-up", "0s"];
        let outcome = loadgen(&[&["chat"][..], &target, &channels, &users, &times].concat());
        outcome.assert_passed();
        let published = outcome.phase("chat")["published"].as_u64().unwrap();
        let count = |name| outcome.counter("chat", name);
        assert!(published >= 40 && count("cut") > 5, "{}", outcome.text);
        // Over ten groups of twelve members and forty channels of one.
        assert!(count("deliveries") >= published * 2, "{}", outcome.text);
        assert!(count("replies") >= 20 && count("recovered") >= 5, "{}", outcome.text);
    }
}

#[test]
fn idle_connections_over_several_rings_all_get_the_broadcast() {
    let server = Server::trunkline();
    for profile in FORMS {
        let outcome = loadgen(&[
            "idle",
            "--profile",
            profile,
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
}

#[test]
fn echo_is_answered_and_an_rpc_without_a_backend_is_counted_as_an_error() {
    let server = Server::trunkline();
    let echo = format!("ws://{}/echo", server.addr);
    let outcome = loadgen(&["echo", "--url", &echo, "-n", "20", "--rate", "500", "--seconds", "1s"]);
    outcome.assert_passed();
    let (requests, replies) = (outcome.counter("echo", "requests"), outcome.counter("echo", "replies"));
    assert!(requests >= 250 && requests == replies, "{requests} {replies}");
    for profile in FORMS {
        let outcome = loadgen(&[
            "rpc",
            "--profile",
            profile,
            "--url",
            &server.url(),
            "-n",
            "5",
            "--rate",
            "50",
            "--seconds",
            "1s",
        ]);
        assert_eq!(outcome.code, 1);
        assert_eq!(outcome.counter("rpc", "replies"), outcome.failures("request answered error 108"));
        assert!(outcome.failures("request answered error 108") > 0);
    }
}

/// The daemon answers itself, or its backend, which is told the form; the answers are no errors.
#[test]
fn requests_are_answered_in_the_form_they_were_made_in() {
    let told = Arc::new(Mutex::new(Vec::<String>::new()));
    let backend = {
        let told = Arc::clone(&told);
        serve(move |mut stream| {
            let mut unread = Vec::new();
            while let Some((_, _, _, body)) = request(&mut stream, &mut unread) {
                let question: serde_json::Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(question["method"], "echo");
                told.lock().unwrap().push(question["protocol"].as_str().unwrap().into());
                let answer = format!(r#"{{"result":{{"data":{}}}}}"#, question["data"]);
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
                if stream.write_all(format!("{head}{answer}").as_bytes()).is_err() {
                    return;
                }
            }
        })
    };
    let hook = format!("[[hook]]\nname = \"b\"\nendpoint = \"http://{backend}/\"\n");
    let server = Server::trunkline_with("rpc_hook = \"b\"", &hook);
    for (profile, form) in FORMS.into_iter().zip(["json", "protobuf"]) {
        for request in [
            None,
            Some(r#""publish":{"channel":"own-0","data":{data}}"#),
            Some(r#""history":{"channel":"own-0","limit":1,"since":{"offset":1},"reverse":true}"#),
            Some(r#""presence":{"channel":"own-0"}"#),
            Some(r#""presence_stats":{"channel":"own-0"}"#),
        ] {
            told.lock().unwrap().clear();
            let url = server.url();
            let mut arguments = vec!["rpc", "--profile", profile, "--url", &url, "-n", "1"];
            arguments.extend(["--channel-prefix", "own-", "--rate", "50", "--seconds", "1s"]);
            arguments.extend(request.iter().flat_map(|request| ["--request", request]));
            let outcome = loadgen(&arguments);
            outcome.assert_passed();
            let (requests, replies) = (outcome.counter("rpc", "requests"), outcome.counter("rpc", "replies"));
            assert!(requests >= 10 && requests == replies, "{profile} {request:?}: {}", outcome.text);
            let told = told.lock().unwrap();
            assert_eq!(told.len() as u64, if request.is_none() { requests } else { 0 });
            assert!(told.iter().all(|told| told == form), "{profile}: {told:?}");
        }
    }
}

/// A connection whose pong is none would be closed.
#[test]
fn pings_are_answered_in_either_form() {
    let server = Server::trunkline_with("ping_interval = \"2s\"\npong_timeout = \"1900ms\"", "");
    for profile in FORMS {
        let url = server.url();
        let outcome = loadgen(&["idle", "--profile", profile, "--url", &url, "-n", "50", "--hold", "5s"]);
        outcome.assert_passed();
        assert_eq!(outcome.phase("hold")["ready"], 50);
        assert!(outcome.counter("hold", "pings") >= 100, "{profile}: {}", outcome.text);
    }
}

#[test]
fn storms_open_and_reopen_everything_and_recover_what_was_missed() {
    let server = Server::trunkline();
    let url = server.url();
    for profile in FORMS {
        let outcome = loadgen(&["connect-storm", "--profile", profile, "--url", &url, "-n", "400"]);
        outcome.assert_passed();
        assert_eq!(outcome.counter("open", "ready"), 400);
        let outcome = loadgen(&[
            "reconnect-storm",
            "--profile",
            profile,
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
}

#[test]
fn slow_readers_cost_the_others_nothing() {
    let server = Server::trunkline();
    for profile in FORMS {
        let outcome = loadgen(&[
            "slow-readers",
            "--profile",
            profile,
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
    for profile in FORMS {
        let token = ["--token", "not-a-token"];
        let arguments = ["connect-storm", "--profile", profile, "--url", &url, "-n", "5", token[0], token[1]];
        let outcome = loadgen(&arguments);
        assert_eq!((outcome.code, outcome.failures("closed by the server with code 3500")), (1, 5));
        assert_eq!(outcome.json["target"]["phases"][0]["counters"]["failed"], 5, "{}", outcome.text);
    }
}

#[test]
fn arguments_that_make_no_sense_are_refused_before_anything_begins() {
    for arguments in [
        &["fanout", "--url", "wss://127.0.0.1:1/", "--tls-ca", "/nowhere"][..],
        &["fanout", "--url", "nowhere"],
        &["fanout", "--url", "ws://127.0.0.1:1/a", "--url", "ws://127.0.0.1:1/b"],
        &["fanout", "--url", "ws://127.0.0.1:1/", "--url", "http://127.0.0.1:1/"],
        &["fanout", "--insecure", "--url", "wss://127.0.0.1:1/", "--url", "wss://127.0.0.2:1/"],
        &["fanout", "--rate", "-1"],
        &["fanout", "--per-connection", "3"],
        &["fanout", "--channel-prefix", "a\"b"],
        &["fanout", "--header", "no field"],
        &["idle", "--hold", "soon"],
        &["rpc", "--profile", "centrifuge-protobuf", "--request", "\"send\":{\"data\":{data}}"],
        &["idle", "--profile", "centrifuge-protobuf", "--url", "http://127.0.0.1:1/"],
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

/// What clients saw of a command: nothing of one that does nothing, and every close of one that cuts connections.
#[test]
fn a_command_in_the_middle_of_a_run_is_reported_with_what_clients_saw_of_it() {
    let server = Server::trunkline();
    let url = server.url();
    let reconnect = format!(
        "TRUNKLINE_API_KEY=k TRUNKLINE_LISTEN={} {} reconnect --percent 50 --over 200ms",
        server.addr,
        common::daemon().display()
    );
    for (command, closes, exit_code) in [("true", 0..=0, 0), ("exit 3", 0..=0, 3), (&*reconnect, 30..=32, 0)]
    {
        let outcome = loadgen(&[
            "fanout",
            "--url",
            &url,
            "--api-key",
            "k",
            "-n",
            "60",
            "--rate",
            "50",
            "--seconds",
            "2s",
            "--warm-up",
            "0s",
            "--during",
            command,
        ]);
        let during = &outcome.phase("fan-out")["during"];
        assert_eq!(during["command"], command);
        let closed = during["closes"].as_u64().expect("a number");
        assert!(closes.contains(&closed), "{closed}: {}", outcome.text);
        assert_eq!(during["exit_code"].as_i64(), Some(exit_code), "{}", outcome.text);
        assert_eq!(during["repeated"].as_u64(), Some(0));
        assert!(outcome.text.contains("longest silence"), "{}", outcome.text);
        assert!(during["longest_silence_ns"].as_u64().expect("a number") > 0);
        if closed == 0 {
            assert_eq!(during["lost"].as_u64(), Some(0));
        }
        let failed = outcome.json["target"]["verdict"] == "failed";
        assert_eq!(failed, closed > 0 || exit_code > 0, "{}", outcome.text);
    }
}

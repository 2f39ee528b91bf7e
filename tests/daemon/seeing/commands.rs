//! The commands that look at a running node.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::{await_end, connect, subscribe};
use crate::frame::Frame;
use crate::on_both_drivers;
use crate::process::{API_KEY, Daemon, TOKEN_SECRET};

fn command(daemon: &Daemon, words: &[&str]) -> Command {
    // Where it listens is printed last.
    daemon.wait_for_log("  API  ");
    let binary = std::env::var_os("TRUNKLINE_TEST_BINARY");
    let mut command = Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_trunkline").into()));
    command
        .args(words)
        .env_clear()
        .env("TRUNKLINE_API_KEY", API_KEY)
        .env("TRUNKLINE_CLIENT_TOKEN_HMAC_SECRET", TOKEN_SECRET)
        .env("TRUNKLINE_LISTEN", daemon.addresses()[0].to_string());
    command
}

fn output_of(daemon: &Daemon, words: &[&str]) -> Output {
    command(daemon, words).output().expect("the binary runs")
}

fn printed(daemon: &Daemon, words: &[&str]) -> String {
    let output = output_of(daemon, words);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words:?}: {problem}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// An object a line.
fn objects(daemon: &Daemon, words: &[&str]) -> Vec<Value> {
    let text = printed(daemon, &[words, &["--json"]].concat());
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

on_both_drivers! {
    fn a_node_is_looked_at_from_a_terminal(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        // A name that would clear the screen of whoever reads it.
        let (mut hostile, client) = connect(&daemon, "\u{1b}[2Jmallory");
        subscribe(&mut hostile, "open:news");
        let status = objects(&daemon, &["status"]);
        assert_eq!((&status[0]["clients"], &status[0]["ready"]), (&json!(1), &json!(true)), "{status:?}");
        assert!(printed(&daemon, &["status"]).contains("clients  1"));

        let seen = objects(&daemon, &["connections", "--channel", "open:news"]);
        assert_eq!((seen.len(), &seen[0]["client"]), (1, &json!(client)));
        let text = printed(&daemon, &["connections"]);
        assert!(text.contains(&client) && !text.contains('\u{1b}'), "{text:?}");
        let channels = printed(&daemon, &["channels", "--pattern", "open:*"]);
        assert!(channels.starts_with("open:news  1 clients"), "{channels}");

        let position = objects(&daemon, &["publish", "open:news", r#"{"n":1}"#]);
        assert_eq!(position[0]["offset"], 1, "{position:?}");
        assert!(printed(&daemon, &["publish", "open:news", "-2"]).starts_with("offset 2 epoch "));

        hostile.send(Frame::close(1000, ""));
        await_end(&daemon, &format!("?client={client}"));
        let why = objects(&daemon, &["why", "--client", &client]);
        assert_eq!((&why[0]["code"], &why[0]["by"]), (&json!(3000), &json!("client")), "{why:?}");
        let text = printed(&daemon, &["why", "--since", "10m", "--code", "3000"]);
        assert!(text.contains("3000 \"connection closed\"  by client") && !text.contains('\u{1b}'), "{text:?}");

        let top = objects(&daemon, &["top", "--every", "50ms", "--count", "2"]);
        assert_eq!(top.len(), 2);
        assert!(top[1]["rates"]["publications"].is_number(), "{top:?}");
    }

    fn what_goes_wrong_has_its_exit_code(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "1"]);
        let code = |words: &[&str]| output_of(&daemon, words).status.code();
        assert_eq!(code(&["publish", "nowhere:x", "1"]), Some(1), "the node refuses it");
        assert_eq!(code(&["publish", "open:x", "{"]), Some(2), "no JSON");
        assert_eq!(code(&["why", "--client", "ann"]), Some(1));
        assert_eq!(code(&["subscribe", "nowhere:x"]), Some(1));
        assert_eq!(code(&["why", "--limit", "0"]), Some(2));
        let with_wrong_key = command(&daemon, &["status"]).env("TRUNKLINE_API_KEY", "another").output();
        assert_eq!(with_wrong_key.expect("the binary runs").status.code(), Some(1));
        let nobody = command(&daemon, &["status"]).env("TRUNKLINE_LISTEN", "127.0.0.1:1").output();
        assert_eq!(nobody.expect("the binary runs").status.code(), Some(2));
    }

    fn a_terminal_is_a_client(driver: Driver) {
        let daemon = Daemon::start_with(driver, &["--shards", "2"]);
        let words = ["subscribe", "--json", "--count", "2", "--user", "ann", "open:news", "open:other"];
        let mut child = command(&daemon, &words).stdout(Stdio::piped()).spawn().expect("the binary runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line.expect("a line")).expect("JSON"));
        assert_eq!(lines.next().expect("a first line")["ready"], true);
        let seen = daemon.api("connections", r#"{"user":"ann"}"#);
        assert_eq!(seen["connections"][0]["num_channels"], 2, "{seen}");
        daemon.api("publish", r#"{"channel":"open:other","data":{"n":1}}"#);
        daemon.api("publish", r#"{"channel":"open:news","data":{"n":2}}"#);
        let messages: Vec<Value> = lines.by_ref().map(|said| said["data"]["n"].clone()).collect();
        let mut numbers: Vec<_> = messages.iter().filter_map(Value::as_u64).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2]);
        assert_eq!(child.wait().expect("an end").code(), Some(0));
    }
}

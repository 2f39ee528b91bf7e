//! What is temporary ends no unmodified client: every way to ask for something, with everything that passes by itself.
//!
//! What SDKs make of an answer: a close below 3500 or between 4000 and 4499, a temporary error, 109 to a connect or a
//! subscribe (another token is asked for) and the end of a subscription from 2500 on bring them back. Any other error to
//! a refresh, any other close, and any answer but 200 to an EventSource are for good.

use std::net::TcpListener;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::frame::{CLOSE, Frame};
use crate::on_both_drivers;
use crate::process::{Daemon, Driver};
use crate::socket::Socket;
use crate::token::token;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    Expired,
    /// What the token grants has ended (`expire_at`).
    Over,
    NotYetValid,
    /// The issuer does not answer.
    KeyAwaited,
    BackendAway,
    /// There is no room for another channel.
    Full,
}
use Trouble::{BackendAway, Expired, Full, KeyAwaited, NotYetValid, Over};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Connect,
    Refresh,
    Subscribe,
    SubRefresh,
    Sse,
    Poll,
}
use Way::{Connect, Poll, Refresh, Sse, SubRefresh, Subscribe};

/// Not a case: a hook is asked by the daemon and not by a client, and what is subscribed already needs no room.
const NONE: &str = "";
const COLUMNS: [Way; 6] = [Connect, Refresh, Subscribe, SubRefresh, Sse, Poll];
/// What each is answered. `t`: temporary. Both 401 are of a token that the URL shows, and that will never hold again.
const TABLE: [(Trouble, [&str; 6]); 6] = [
    (Expired, ["109", "closed 3005", "109", "109t unsubscribed 2501", "401", "401"]),
    (Over, ["109", "closed 3005", "109", "109t unsubscribed 2501", "401", "401"]),
    (NotYetValid, ["100t", "100t", "100t", "100t", "200 retry 3005", "503"]),
    (KeyAwaited, ["100t", "100t", "100t", "100t", "200 retry 3004", "503"]),
    (BackendAway, ["100t", NONE, "100t", NONE, "200 retry 3004", "503"]),
    (Full, ["closed 3004", "closed 3004", "106t", NONE, "200 retry 3013", "503"]),
];

/// Whether a client that does not know the daemon comes back by itself, or asks its application for another token.
fn comes_back(trouble: Trouble, way: Way, answer: &str) -> bool {
    let closed = |answer: &str| answer.strip_prefix("closed ").is_some_and(|code| code < "3500");
    match way {
        Connect => closed(answer) || answer == "109" || answer.ends_with('t'),
        Refresh => closed(answer) || answer.ends_with('t'),
        Subscribe => answer == "109" || answer.ends_with('t'),
        SubRefresh => answer.ends_with('t') || answer.ends_with("t unsubscribed 2501"),
        Sse => answer.starts_with("200 retry 3") || answer == "401" && matches!(trouble, Expired | Over),
        Poll => answer == "503" || answer == "401" && matches!(trouble, Expired | Over),
    }
}

/// A daemon in trouble, and what must stay as it is meanwhile.
struct Stage {
    daemon: Daemon,
    trouble: Trouble,
    /// Accepts and never answers.
    _issuer: TcpListener,
    /// Has the only channel there is room for.
    _subscriber: Option<Socket>,
}

impl Stage {
    fn new(driver: Driver, trouble: Trouble) -> Stage {
        let issuer = TcpListener::bind("127.0.0.1:0").unwrap();
        let keys = format!("http://{}/keys", issuer.local_addr().unwrap());
        // Nobody listens there any more.
        let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let tables = format!(
            "[[hook]]\nname = \"away\"\nendpoint = \"http://{away}/\"\n\
             [[namespace]]\nname = \"asked\"\nsubscribe_hook = \"away\"\n"
        );
        let mut settings = vec![];
        match trouble {
            KeyAwaited => settings.push(("CLIENT_TOKEN_JWKS_URL", &*keys)),
            BackendAway => settings.push(("CLIENT_CONNECT_HOOK", "away")),
            Full => {
                settings.push(("LIMITS_CHANNELS_MAX", "1"));
                settings.push(("LIMITS_CLIENT_CHANNELS_PERCENT", "100"));
            }
            Expired | Over | NotYetValid => {}
        }
        let daemon = Daemon::start_written(driver, &["--shards", "1"], &settings, &tables);
        let subscriber = (trouble == Full).then(|| {
            let mut client = connected(&daemon, json!({}));
            say(&mut client, &json!({"id": 2, "subscribe": {"channel": "one"}}));
            assert_eq!(outcome(&mut client), "ok");
            client
        });
        Stage { daemon, trouble, _issuer: issuer, _subscriber: subscriber }
    }

    /// The token that is shown; `None` where the backend is asked instead.
    fn token(&self, more: Value) -> Option<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({"sub": "ann"});
        let mut add = |more: Value| claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        add(more);
        match self.trouble {
            Expired => add(json!({"exp": now - 60})),
            Over => add(json!({"exp": now + 60, "expire_at": now - 60})),
            NotYetValid => add(json!({"nbf": now + 600})),
            KeyAwaited => {
                let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
                let signature = URL_SAFE_NO_PAD.encode([0; 256]);
                let header = part(r#"{"alg":"RS256","kid":"one"}"#);
                return Some(format!("{header}.{}.{signature}", part(&claims.to_string())));
            }
            BackendAway => return None,
            Full => {}
        }
        Some(token(&claims))
    }

    fn answer(&self, way: Way) -> String {
        // What a connection has before the trouble: two tokens that are good for a while.
        let channel = if self.trouble == BackendAway { "asked:c" } else { "closed:c" };
        let shown = |more: Value| self.token(more).unwrap_or_default();
        match way {
            Connect => {
                let mut client = Socket::open(&self.daemon, "/connection/websocket");
                let subs = if self.trouble == Full { json!({"channels": [channel]}) } else { json!({}) };
                say(&mut client, &json!({"id": 1, "connect": {"token": shown(subs)}}));
                outcome(&mut client)
            }
            Refresh => {
                let mut client = connected(&self.daemon, json!({}));
                let subs = if self.trouble == Full { json!({"channels": [channel]}) } else { json!({}) };
                say(&mut client, &json!({"id": 2, "refresh": {"token": shown(subs)}}));
                let answer = outcome(&mut client);
                match answer.as_str() {
                    // The channel that it grants is asked for afterwards.
                    "ok" => outcome(&mut client),
                    _ => answer,
                }
            }
            Subscribe => {
                let mut client = connected(&self.daemon, json!({}));
                let shown = shown(json!({"channel": channel}));
                say(&mut client, &json!({"id": 2, "subscribe": {"channel": channel, "token": shown}}));
                outcome(&mut client)
            }
            SubRefresh => {
                let mut client = connected(&self.daemon, json!({}));
                let good = token(&json!({"sub": "ann", "channel": channel}));
                say(&mut client, &json!({"id": 2, "subscribe": {"channel": channel, "token": good}}));
                assert_eq!(outcome(&mut client), "ok");
                let shown = shown(json!({"channel": channel}));
                say(&mut client, &json!({"id": 3, "sub_refresh": {"channel": channel, "token": shown}}));
                let answer = outcome(&mut client);
                match answer.as_str() {
                    "109t" => format!("109t {}", outcome(&mut client)),
                    _ => answer,
                }
            }
            Sse => {
                let mut client = Socket::raw(&self.daemon);
                let shown = shown(json!({"channels": [channel]}));
                client.ask(
                    &format!("/sse?channel={channel}&token={shown}"),
                    "Accept: text/event-stream\r\nConnection: close\r\n",
                );
                let (status, fields) = client.head();
                if status != 200 {
                    return status.to_string();
                }
                assert_eq!(fields["content-type"], "text/event-stream");
                let text = String::from_utf8(client.recv_rest()).unwrap();
                let data = text.lines().find_map(|line| line.strip_prefix("data: ")).expect("an event");
                let data: Value = serde_json::from_str(data).unwrap();
                assert_eq!(data["disconnect"]["reconnect"], true, "{text}");
                let retry = if text.contains("retry: ") { "retry" } else { "" };
                format!("{status} {retry} {}", data["disconnect"]["code"])
            }
            Poll => {
                let mut client = Socket::raw(&self.daemon);
                let shown = shown(json!({"channels": [channel]}));
                let answer = client.get(&format!("/poll?channel={channel}&wait=0&token={shown}"));
                if answer.status == 503 {
                    assert!(!answer.field("retry-after").is_empty(), "{answer:?}");
                }
                answer.status.to_string()
            }
        }
    }
}

/// A client that was let in while all was well.
fn connected(daemon: &Daemon, more: Value) -> Socket {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({"sub": "ann", "exp": now + 600});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut client = Socket::open(daemon, "/connection/websocket");
    say(&mut client, &json!({"id": 1, "connect": {"token": token(&claims)}}));
    assert_eq!(outcome(&mut client), "ok");
    client
}

fn say(client: &mut Socket, command: &Value) {
    client.send(Frame::text(&command.to_string()));
}

/// The next messages that come together, in short.
fn outcome(client: &mut Socket) -> String {
    let frame = client.recv().expect("a message");
    if frame.opcode == CLOSE {
        return format!("closed {}", frame.close_code().expect("a code"));
    }
    let text = String::from_utf8(frame.payload).unwrap();
    text.lines().map(|line| in_short(&serde_json::from_str(line).unwrap())).collect::<Vec<_>>().join(" ")
}

fn in_short(message: &Value) -> String {
    if let Some(error) = message.get("error") {
        return format!("{}{}", error["code"], if error["temporary"] == true { "t" } else { "" });
    }
    match message["push"].get("unsubscribe") {
        Some(unsubscribe) => format!("unsubscribed {}", unsubscribe["code"]),
        None => "ok".into(),
    }
}

on_both_drivers! {
    fn everything_temporary_brings_the_client_back(driver: Driver) {
        let mut wrong = Vec::new();
        for (trouble, expected) in TABLE {
            let stage = Stage::new(driver, trouble);
            for (way, expected) in COLUMNS.into_iter().zip(expected) {
                if expected == NONE {
                    continue;
                }
                let answer = stage.answer(way);
                if answer != expected || !comes_back(trouble, way, &answer) {
                    wrong.push(format!("{way:?} while {trouble:?}: {answer} instead of {expected}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

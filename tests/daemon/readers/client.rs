//! A client of HTTP and of its streams, written the long way.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::process::Daemon;

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    pub received: Vec<u8>,
}

/// A whole response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// By name in lower case.
    pub fields: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    pub fn position(&self) -> String {
        self.json()["position"].as_str().expect("a position").to_string()
    }

    /// The data of a batch's messages.
    pub fn data(&self) -> Vec<Value> {
        let body = self.json();
        let messages = body["messages"].as_array().expect("messages");
        messages.iter().map(|message| message["data"].clone()).collect()
    }

    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// The status and code of a problem.
    pub fn problem(&self) -> (u16, u64) {
        assert_eq!(self.field("content-type"), "application/problem+json", "{self:?}");
        let body = self.json();
        assert_eq!(body["status"], self.status);
        (self.status, body["code"].as_u64().unwrap_or(0))
    }
}

impl Client {
    pub fn new(daemon: &Daemon) -> Client {
        Client { stream: daemon.connect(), received: Vec::new() }
    }

    /// A request without a body; `extra` are header lines, each ending in CRLF.
    pub fn send(&mut self, target: &str, extra: &str) {
        self.write(request(target, extra).as_bytes());
    }

    pub fn write(&mut self, bytes: &[u8]) {
        // The peer may have answered and closed already: that shows in what is received.
        let _ = self.stream.write_all(bytes);
    }

    pub fn get(&mut self, target: &str) -> Response {
        self.send(target, "");
        self.response()
    }

    pub fn get_with(&mut self, target: &str, extra: &str) -> Response {
        self.send(target, extra);
        self.response()
    }

    pub fn response(&mut self) -> Response {
        let (status, fields) = self.head();
        let length = fields.get("content-length").map_or(0, |length| length.parse().expect("a length"));
        let body = match status {
            204 | 304 => Vec::new(),
            _ => self.take(length),
        };
        Response { status, fields, body }
    }

    pub fn head(&mut self) -> (u16, BTreeMap<String, String>) {
        let head = self.until(b"\r\n\r\n");
        let text = String::from_utf8(head).expect("a head in ASCII");
        let mut lines = text.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        let fields = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_string()))
            .collect();
        (status, fields)
    }

    /// Bytes up to `mark`, with it.
    pub fn until(&mut self, mark: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.received.windows(mark.len()).position(|window| window == mark) {
                return self.received.drain(..at + mark.len()).collect();
            }
            assert!(self.fill(), "the stream ends: {:?}", String::from_utf8_lossy(&self.received));
        }
    }

    pub fn take(&mut self, len: usize) -> Vec<u8> {
        while self.received.len() < len {
            assert!(self.fill(), "the stream ends in a body");
        }
        self.received.drain(..len).collect()
    }

    /// Everything up to the end of the stream.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.received)
    }

    fn fill(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(len) => {
                self.received.extend_from_slice(&buffer[..len]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing comes: {error}"),
        }
    }
}

pub fn request(target: &str, extra: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n")
}

/// One event of an event stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub event: String,
    pub data: Value,
}

/// A reader of events, as a browser is one.
pub struct Events {
    pub client: Client,
    pub retry_ms: u64,
    pub last_id: String,
}

impl Events {
    pub fn open(daemon: &Daemon, target: &str, last_id: &str) -> Events {
        let mut client = Client::new(daemon);
        let extra = match last_id {
            "" => String::new(),
            id => format!("Last-Event-ID: {id}\r\n"),
        };
        client.send(target, &format!("Accept: text/event-stream\r\n{extra}"));
        let (status, fields) = client.head();
        assert_eq!((status, fields["content-type"].as_str()), (200, "text/event-stream"));
        assert_eq!(fields["x-accel-buffering"], "no");
        let mut events = Events { client, retry_ms: 0, last_id: String::new() };
        let ready = events.next();
        assert_eq!(ready.event, "ready", "{ready:?}");
        events
    }

    /// The next event with data; comments and retries on the way are taken note of.
    pub fn next(&mut self) -> Event {
        loop {
            let block = self.client.until(b"\n\n");
            let text = String::from_utf8(block).expect("UTF-8");
            let mut event = Event { event: "message".into(), ..Event::default() };
            for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with(':')) {
                let (name, value) = line.split_once(": ").expect("a field");
                match name {
                    "id" => event.id = Some(value.into()),
                    "event" => event.event = value.into(),
                    "data" => event.data = serde_json::from_str(value).expect("JSON"),
                    "retry" => self.retry_ms = value.parse().expect("milliseconds"),
                    other => panic!("unknown field {other}"),
                }
            }
            if let Some(id) = &event.id {
                self.last_id.clone_from(id);
            }
            if !event.data.is_null() {
                return event;
            }
        }
    }

    /// The data of the next `count` messages, in order.
    pub fn messages(&mut self, count: usize) -> Vec<Value> {
        (0..count)
            .map(|_| {
                let event = self.next();
                assert_eq!(event.event, "message", "{event:?}");
                event.data["data"].clone()
            })
            .collect()
    }
}

/// Publishes numbers to a channel by the server API.
pub fn publish(daemon: &Daemon, channel: &str, numbers: impl IntoIterator<Item = u64>) {
    let mut api = crate::process::Api::new(daemon);
    for number in numbers {
        let answer = api.call("publish", &format!("{{\"channel\":\"{channel}\",\"data\":{number}}}"));
        assert!(answer["error"].is_null(), "{answer}");
    }
}

/// Waits until `channel` has `count` subscribers.
pub fn await_subscribers(daemon: &Daemon, channel: &str, count: u64) {
    let mut api = crate::process::Api::new(daemon);
    loop {
        let answer = api.call("channels", "{}");
        if answer["result"]["channels"][channel]["num_clients"].as_u64().unwrap_or(0) == count {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

pub fn numbers(range: impl IntoIterator<Item = u64>) -> Vec<Value> {
    range.into_iter().map(Value::from).collect()
}

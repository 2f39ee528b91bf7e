//! A client of event streams, and what feeds it.

use serde_json::Value;

use crate::process::{Api, Daemon};
use crate::socket::Socket;

/// One event of an event stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub event: String,
    pub data: Value,
}

/// A client of event streams, as a browser is one.
pub struct Events {
    pub socket: Socket,
    pub retry_ms: u64,
    pub last_id: String,
    /// Without the framing of chunks.
    text: Vec<u8>,
    /// The chunk that ends the stream has come.
    ended: bool,
}

impl Events {
    pub fn open(daemon: &Daemon, target: &str, last_id: &str) -> Events {
        let mut socket = Socket::raw(daemon);
        let extra = match last_id {
            "" => String::new(),
            id => format!("Last-Event-ID: {id}\r\n"),
        };
        socket.ask(target, &format!("Accept: text/event-stream\r\n{extra}"));
        let (status, fields) = socket.head();
        assert_eq!((status, fields["content-type"].as_str()), (200, "text/event-stream"));
        assert_eq!(fields["x-accel-buffering"], "no");
        assert_eq!(fields["transfer-encoding"], "chunked");
        let mut events =
            Events { socket, retry_ms: 0, last_id: String::new(), text: Vec::new(), ended: false };
        let ready = events.next();
        assert_eq!(ready.event, "ready", "{ready:?}");
        events
    }

    /// The next event with data; comments and retries on the way are taken note of.
    pub fn next(&mut self) -> Event {
        loop {
            let text = self.block().expect("an event");
            assert!(
                text.contains("\ndata: ") || text.starts_with("data: "),
                "a block without data: {text:?}"
            );
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

    /// The next block, up to its empty line. `None`: the stream has ended in order.
    fn block(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.text.windows(2).position(|two| two == b"\n\n") {
                return Some(String::from_utf8(self.text.drain(..at + 2).collect()).expect("UTF-8"));
            }
            if self.ended {
                assert!(self.text.is_empty());
                return None;
            }
            let size = self.socket.recv_until(b"\r\n");
            let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap().trim(), 16).expect("a size");
            let chunk = self.socket.recv_body(size);
            assert!(chunk.last().is_none_or(|&last| last == b'\n'), "whole lines in each chunk");
            assert_eq!(self.socket.recv_body(2), b"\r\n");
            self.text.extend(chunk);
            self.ended = size == 0;
        }
    }

    /// The stream ends here, and the connection with it.
    pub fn expect_end(mut self) {
        assert_eq!(self.block(), None);
        assert!(self.socket.recv_rest().is_empty());
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
    let mut api = Api::new(daemon);
    for number in numbers {
        let answer = api.call("publish", &format!("{{\"channel\":\"{channel}\",\"data\":{number}}}"));
        assert!(answer["error"].is_null(), "{answer}");
    }
}

/// Waits until `channel` has `count` subscribers.
pub fn await_subscribers(daemon: &Daemon, channel: &str, count: u64) {
    let mut api = Api::new(daemon);
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

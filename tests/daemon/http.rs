//! HTTP over a socket, written the long way.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::socket::Socket;

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

impl Socket {
    /// A request without a body; `extra` are header lines, each ending in CRLF.
    pub fn ask(&mut self, target: &str, extra: &str) {
        self.send_bytes(request(target, extra).as_bytes());
    }

    pub fn get(&mut self, target: &str) -> Response {
        self.get_with(target, "")
    }

    pub fn get_with(&mut self, target: &str, extra: &str) -> Response {
        self.ask(target, extra);
        self.response()
    }

    pub fn response(&mut self) -> Response {
        let (status, fields) = self.head();
        let length = fields.get("content-length").map_or(0, |length| length.parse().expect("a length"));
        let body = match status {
            204 | 304 => Vec::new(),
            _ => self.recv_body(length),
        };
        Response { status, fields, body }
    }

    /// The status and the fields, by name in lower case.
    pub fn head(&mut self) -> (u16, BTreeMap<String, String>) {
        let text = self.recv_head();
        let mut lines = text.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
        let fields = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_string()))
            .collect();
        (status, fields)
    }
}

pub fn request(target: &str, extra: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n")
}

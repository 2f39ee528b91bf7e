//! How a client's bytes go to and fro: by WebSocket, or by a response that does not end and requests for its commands.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::json;
use trunkline::base::time::Time;
use trunkline::driver::sim::ClientState;

use super::{Client, Phase};
use crate::protobuf;
use crate::sealed::End;
use crate::wire::{self, Body, Reader};
use crate::world::Stage;

/// How soon a client whose session is unknown must hear the end of its connection when nothing is late.
const FAREWELL_PROMPT: Duration = Duration::from_secs(1);
/// How long it waits for the answer to a request: as the SDKs wait for a reply.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest text of commands in a query.
const QUERY_BYTES_MAX: usize = 1_500;

/// What carries the messages of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carrier {
    #[default]
    WebSocket,
    Stream,
    Sse,
}

/// Commands of a client whose connection takes none: one request after the other, so that they stay in order.
#[derive(Default)]
pub struct Uplink {
    /// As the answer to the connect gave them.
    pub session: String,
    pub node: String,
    frames: VecDeque<Vec<u8>>,
    end: Option<End>,
    reader: Reader,
    /// Since when an answer is awaited.
    asked: Option<Time>,
    /// Since when the session is unknown, and the end of the connection has not been heard.
    unknown: Option<Time>,
}

impl Client {
    pub(super) fn is_websocket(&self) -> bool {
        self.carrier == Carrier::WebSocket
    }

    pub(super) fn new_reader(&self) -> Reader {
        match (self.carrier, self.protobuf) {
            (Carrier::WebSocket, _) => Reader::default(),
            (Carrier::Stream, false) => Reader::of_body(Body::Lines),
            (Carrier::Stream, true) => Reader::of_body(Body::Delimited),
            (Carrier::Sse, _) => Reader::of_body(Body::Events),
        }
    }

    /// The query of its request.
    pub(super) fn query(&self) -> String {
        let mut parts = Vec::new();
        if !self.origin.is_empty() {
            parts.push(format!("origin={}", self.origin));
        }
        if self.protobuf && self.is_websocket() {
            parts.push("format=protobuf".into());
        }
        if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
    }

    /// Sends commands the way its carrier has it.
    pub(super) fn send_commands(&mut self, lines: &[String], stage: &mut Stage) {
        let frame = match self.protobuf {
            true => protobuf::commands(lines),
            false => lines.join("\n").into_bytes(),
        };
        if self.is_websocket() {
            return self.send_frame(if self.protobuf { wire::BINARY } else { wire::TEXT }, &frame, stage);
        }
        match &mut self.end {
            // The first ones are in the request that the connection begins with.
            Some(end) if !std::mem::replace(&mut self.asked_for_stream, true) => {
                let request = opening(self.carrier, self.protobuf, &self.origin, &frame);
                end.send(&request);
            }
            _ => self.uplink.frames.push_back(frame),
        }
    }

    /// Sends what waits, and takes in what became of what was sent.
    pub(super) fn pump(&mut self, stage: &mut Stage) {
        if self.is_websocket() {
            return;
        }
        let now = stage.net.now();
        if let Some(since) = self.uplink.unknown
            && now.since(since) > FAREWELL_PROMPT
        {
            assert!(!stage.settled, "client {} has no session, and its connection goes on", self.number);
            return self.lose(stage);
        }
        self.hear_uplink(stage);
        let uplink = &mut self.uplink;
        if uplink.asked.is_some_and(|since| now.since(since) > ANSWER_TIMEOUT) {
            return self.lose(stage);
        }
        if uplink.asked.is_some() || uplink.unknown.is_some() || self.phase != Phase::Ready {
            return;
        }
        let Some(frame) = uplink.frames.front() else { return };
        let (content_type, body) = match self.protobuf {
            true => ("application/octet-stream", protobuf::emulation(&uplink.session, &uplink.node, frame)),
            false => {
                let data = std::str::from_utf8(frame).expect("JSON is text");
                let body = json!({ "session": uplink.session, "node": uplink.node, "data": data });
                ("application/json", body.to_string().into_bytes())
            }
        };
        let mut request = format!(
            "POST /emulation HTTP/1.1\r\nHost: sim\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend(body);
        // The shard may be about to end a connection that has been idle: that is no fault of anybody.
        if stage.settled {
            uplink.end = None;
        }
        if uplink.end.is_none() {
            (uplink.end, uplink.reader) = (Some(stage.connect()), Reader::default());
        }
        if let Some(end) = &mut uplink.end {
            end.send(&request);
        }
        uplink.asked = Some(now);
    }

    fn hear_uplink(&mut self, stage: &mut Stage) {
        let Some(end) = &mut self.uplink.end else { return };
        end.recv_into(self.uplink.reader.buffer());
        let over = matches!(end.state(), ClientState::Finished | ClientState::Reset | ClientState::Refused);
        let answer = self.uplink.reader.next_response();
        if let Some((status, _)) = answer {
            stage.note(self.number, '<', &format!("emulation: {status}"));
            assert!(self.uplink.asked.take().is_some(), "an answer of {status} to nothing");
            match status {
                204 => {
                    self.uplink.frames.pop_front();
                    stage.coverage.count("emulated");
                }
                // The connection is over: its end may still be on its way.
                404 => {
                    self.uplink.frames.clear();
                    self.uplink.unknown = Some(stage.net.now());
                    stage.coverage.count("emulated_for_nobody");
                }
                // It was not taken, and goes out again.
                429 => stage.coverage.count("emulation_full"),
                // 408: the request came too slowly. 503: there are as many bytes of unfinished requests as there may be,
                // or the shard is about to end.
                408 | 503 => {
                    let tight = stage.scenario.options.http.input.bytes_max() < 1 << 20;
                    assert!(!stage.settled || tight || stage.ending, "emulation was answered with {status}");
                    return self.lose(stage);
                }
                other => panic!("emulation was answered with {other}"),
            }
        }
        if over {
            self.uplink.end = None;
            // It may have been taken or not.
            if self.uplink.asked.is_some() {
                assert!(!stage.settled || stage.ending, "a request of client {} has no answer", self.number);
                self.lose(stage);
            }
        }
    }
}

/// The request that a connection begins with.
fn opening(carrier: Carrier, protobuf: bool, origin: &str, commands: &[u8]) -> Vec<u8> {
    let path = if carrier == Carrier::Sse { "/connection/sse" } else { "/connection/http_stream" };
    let content_type = if protobuf { "application/octet-stream" } else { "application/json" };
    let mut query = String::new();
    if !origin.is_empty() {
        query.push_str(&format!("origin={origin}&"));
    }
    if carrier == Carrier::Sse && commands.len() < QUERY_BYTES_MAX / 3 {
        let commands: String = commands.iter().map(|byte| format!("%{byte:02X}")).collect();
        return format!("GET {path}?{query}cf_connect={commands} HTTP/1.1\r\nHost: sim\r\n\r\n").into_bytes();
    }
    let mut request = format!(
        "POST {path}?{query} HTTP/1.1\r\nHost: sim\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        commands.len()
    )
    .into_bytes();
    request.extend_from_slice(commands);
    request
}

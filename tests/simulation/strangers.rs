//! Those whose messages are not checked: peers that send rubbish, users of plain HTTP, and a client that never stops.

use std::collections::VecDeque;
use std::time::Duration;

use trunkline::base::time::Time;
use trunkline::driver::sim::ClientState;

use crate::sealed::End;
use crate::wire::{self, Reader};
use crate::world::Stage;

/// Sends almost what a client would. Nothing that comes back is looked at: only that the shard survives it.
pub struct Hostile {
    end: Option<End>,
}

impl Hostile {
    pub fn new() -> Hostile {
        Hostile { end: None }
    }

    pub fn act(&mut self, stage: &mut Stage) {
        let Some(end) = &mut self.end else {
            let mut end = stage.connect();
            let mut head = wire::handshake(stage.scenario.options.compression.is_some(), "");
            if stage.prng.u8(..4) == 0 {
                mutate(&mut head, stage);
            }
            end.send(&head);
            self.end = Some(end);
            return;
        };
        end.recv();
        if end.alerted() {
            stage.coverage.count("sealed_alert_heard");
        }
        if end.state() != ClientState::Open && end.state() != ClientState::Connecting
            || stage.prng.u8(..20) == 0
        {
            self.end = None;
            return;
        }
        stage.coverage.count("hostile_bytes");
        let channel = stage.prng.usize(..stage.scenario.channels.len());
        let name = stage.name(channel).to_string();
        // No publish: what it says under another's name would be believed.
        let texts = [
            r#"{"id":1,"connect":{}}"#.to_string(),
            format!(r#"{{"id":2,"subscribe":{{"channel":"{name}","join_leave":true}}}}"#),
            format!(r#"{{"id":3,"subscribe":{{"channel":"{name}","recover":true,"offset":1,"epoch":"z"}}}}"#),
            format!(r#"{{"id":4,"unsubscribe":{{"channel":"{name}"}}}}"#),
            format!(r#"{{"id":5,"history":{{"channel":"{name}","limit":-1}}}}"#),
            format!(r#"{{"id":6,"presence":{{"channel":"{name}"}}}}"#),
            "{}".to_string(),
            r#"{"id":7,"connect":{"token":"a.b.c"}}"#.to_string(),
            r#"{"id":8,"rpc":{}}"#.to_string(),
            r#"{"id":4294967295}"#.repeat(stage.prng.usize(1..5)),
        ];
        let mut frame = Vec::new();
        match stage.prng.u8(..8) {
            0 => {
                let long = vec![b'{'; stage.prng.usize(..20_000)];
                wire::write_message(&mut frame, wire::TEXT, &long, &mut stage.prng);
            }
            1 => {
                wire::write_message(&mut frame, stage.prng.u8(..16), b"\xff\xfe\x00", &mut stage.prng.fork())
            }
            2 => wire::write_frame(&mut frame, wire::TEXT, true, b"\xc3\x28", &mut stage.prng),
            _ => {
                let text = &texts[stage.prng.usize(..texts.len())];
                wire::write_message(&mut frame, wire::TEXT, text.as_bytes(), &mut stage.prng);
            }
        }
        if stage.scenario.options.compression.is_some() {
            match stage.prng.u8(..8) {
                // Hardly ever deflate data.
                0 => frame[0] |= 0x40,
                // As long as a message may be, or a byte longer, many times in one read.
                1 => {
                    let max = stage.scenario.options.message_bytes_max + usize::from(stage.prng.u8(..8) == 0);
                    let bomb = format!("{:>max$}", texts[5]);
                    frame.clear();
                    wire::write_compressed(&mut frame, wire::TEXT, texts[0].as_bytes(), &mut stage.prng);
                    for _ in 0..stage.prng.usize(1..200) {
                        wire::write_compressed(&mut frame, wire::TEXT, bomb.as_bytes(), &mut stage.prng);
                    }
                }
                2..5 => {
                    frame.clear();
                    let text = &texts[stage.prng.usize(..texts.len())];
                    wire::write_compressed(&mut frame, wire::TEXT, text.as_bytes(), &mut stage.prng);
                }
                _ => {}
            }
        }
        if stage.prng.u8(..3) == 0 {
            mutate(&mut frame, stage);
        }
        // Bytes where a record is awaited.
        match end.is_sealed() && stage.prng.u8(..4) == 0 {
            true => end.send_unsealed(&frame),
            false => end.send(&frame),
        };
    }

    pub fn leave(&mut self) {
        self.end = None;
    }
}

/// What somebody is told who is not let in.
fn is_of_admission(body: &[u8]) -> bool {
    let known: [&[u8]; 3] = [
        b"too many connections from your network\n",
        b"too many unauthenticated connections from your network\n",
        b"too many unauthenticated connections\n",
    ];
    known.contains(&body)
}

fn mutate(bytes: &mut Vec<u8>, stage: &mut Stage) {
    for _ in 0..stage.prng.usize(1..4) {
        if bytes.is_empty() {
            return;
        }
        let at = stage.prng.usize(..bytes.len());
        match stage.prng.u8(..4) {
            0 => bytes[at] ^= 1 << stage.prng.u8(..8),
            1 => bytes.insert(at, stage.prng.u8(..)),
            2 => {
                bytes.remove(at);
            }
            _ => bytes.truncate(at),
        }
    }
}

/// Sends commands as fast as its link takes them, and reads every answer: the greediest client that does nothing wrong.
pub struct Flooder {
    end: End,
}

impl Flooder {
    /// Bytes that are on their way to the shard at any time: more than it reads at once.
    const UNDER_WAY: u64 = 32 * 1024;
    /// Of itself alone: what it says is no concern of the checks.
    const CHANNEL: &str = "flooded";

    pub fn new(stage: &mut Stage) -> Flooder {
        let mut end = stage.connect();
        let mut opening = wire::handshake(false, "");
        let connect = format!(
            "{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{}\"}}}}",
            Flooder::CHANNEL
        );
        wire::write_frame(&mut opening, wire::TEXT, true, connect.as_bytes(), &mut stage.prng);
        end.send(&opening);
        Flooder { end }
    }

    /// Keeps its link full. One that was closed comes back.
    pub fn go_on(&mut self, stage: &mut Stage) {
        if !self.end.recv().is_empty() {
            stage.coverage.count("flood_answered");
        }
        if !matches!(self.end.state(), ClientState::Open | ClientState::Connecting) {
            *self = Flooder::new(stage);
        }
        let name = Flooder::CHANNEL;
        let publish = format!(r#""publish":{{"channel":"{name}","data":1}}"#);
        let (leave, join) = (
            format!(r#""unsubscribe":{{"channel":"{name}"}}"#),
            format!(r#""subscribe":{{"channel":"{name}"}}"#),
        );
        let (history, presence) = (
            format!(r#""history":{{"channel":"{name}","limit":-1}}"#),
            format!(r#""presence":{{"channel":"{name}"}}"#),
        );
        let traffic = self.end.traffic();
        let mut under_way = traffic.client_sent.saturating_sub(traffic.shard_read);
        while under_way < Flooder::UNDER_WAY {
            // Mostly publications: each comes back as a message of the shard to itself, or of another one.
            let kinds = match stage.prng.u8(..8) {
                0 => [&leave, &join],
                1 => [&history, &presence],
                _ => [&publish, &publish],
            };
            let commands: Vec<String> =
                (3..63).map(|id: usize| format!("{{\"id\":{id},{}}}", kinds[(id + 1) % 2])).collect();
            let mut frame = Vec::new();
            wire::write_frame(&mut frame, wire::TEXT, true, commands.join("\n").as_bytes(), &mut stage.prng);
            if !self.end.send(&frame) {
                break;
            }
            under_way += frame.len() as u64;
        }
    }
}

/// Sends requests, several at once if it likes, and expects an answer to each, in order.
pub struct HttpUser {
    number: usize,
    end: Option<End>,
    reader: Reader,
    awaited: VecDeque<String>,
    requests: u64,
    /// Its last request was cut short or malformed: the connection ends with an answer, or without.
    spoilt: bool,
    since: Time,
}

impl HttpUser {
    pub fn new(number: usize) -> HttpUser {
        HttpUser {
            number,
            end: None,
            reader: Reader::default(),
            awaited: VecDeque::new(),
            requests: 0,
            spoilt: false,
            since: Time::ZERO,
        }
    }

    pub fn act(&mut self, stage: &mut Stage) {
        let now = stage.net.now();
        let Some(end) = &mut self.end else {
            self.end = Some(stage.connect());
            self.reader = Reader::default();
            self.awaited.clear();
            self.spoilt = false;
            self.since = now;
            return;
        };
        if self.spoilt || now.since(self.since) > Duration::from_secs(4) || stage.prng.u8(..16) == 0 {
            if now.since(self.since) > Duration::from_millis(300) {
                self.end = None;
            }
            return;
        }
        let mut bytes = Vec::new();
        for _ in 0..stage.prng.usize(1..3) {
            self.requests += 1;
            let path = format!("/of/{}/{}", self.number, self.requests);
            let body = "b".repeat(stage.prng.usize(..30));
            bytes.extend_from_slice(
                format!("POST {path} HTTP/1.1\r\nHost: sim\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                    .as_bytes(),
            );
            self.awaited.push_back(format!("{path} {body}"));
        }
        if stage.prng.u8(..8) == 0 {
            self.spoilt = true;
            match stage.prng.bool() {
                true => mutate(&mut bytes, stage),
                false => bytes.truncate(stage.prng.usize(..bytes.len())),
            }
        }
        end.send(&bytes);
    }

    pub fn hear(&mut self, stage: &mut Stage) {
        let Some(end) = &mut self.end else { return };
        if end.recv_into(self.reader.buffer()) > 0 {
            while let Some((status, body)) = self.reader.next_response() {
                if self.spoilt {
                    continue;
                }
                match status {
                    200 => {
                        let awaited = self.awaited.pop_front().expect("an answer without a request");
                        assert_eq!(body, awaited.as_bytes(), "another's answer");
                        stage.coverage.count("http_answered");
                    }
                    // There are as many connections as there may be: said before any request.
                    503 if stage.scenario.cramped && body == b"too many connections\n" => {}
                    // Its network has too many, or the node too many that have not shown who they are.
                    429 | 503 if stage.scenario.options.admission.is_some() && is_of_admission(&body) => {
                        stage.coverage.count("request_refused_by_admission");
                    }
                    500 | 503 => {
                        self.awaited.pop_front().expect("an answer without a request");
                    }
                    // The request had not arrived in time.
                    408 => {}
                    other => panic!("a sound request was answered with {other}"),
                }
            }
        }
        if end.heard_end() {
            stage.coverage.count("sealed_end_heard");
        }
        // A shard that has no more to say to it says so before its FIN.
        let orderly = end.state() == ClientState::Finished && end.is_sealed() && !end.finished();
        assert!(!orderly || end.heard_end() || stage.ending, "cut off without an end");
        if matches!(end.state(), ClientState::Finished | ClientState::Reset | ClientState::Refused) {
            self.end = None;
        }
    }

    pub fn leave(&mut self) {
        self.end = None;
    }
}

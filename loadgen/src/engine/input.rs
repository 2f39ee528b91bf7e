//! From the bytes of one read to messages, and what they say.

use std::time::Duration;

use trunkline::base::time::Time;
use trunkline::proto::http1::{ResponseHead, parse_response_head};
use trunkline::proto::websocket::deflate::check_extension;
use trunkline::proto::websocket::{
    Decoder, Message, Role, WsFault, check_response, check_upgrade, write_request,
};

use super::Shared;
use super::conn::{CHUNKED, COMPRESSED, Conn, STALLED, State, WAITING};
use super::inflated::Inflated;
use super::response::{chunk, whole_response};
use crate::measure::{Arrival, Cause, MarkFinder, MarkKind, Measured, Tally};
use crate::profile::{Client, Outgoing, Wire};

/// Sent as Sec-WebSocket-Key. Its randomness guards against caches between client and server (RFC 6455 section 1.3);
/// there are none here, and the same key lets a floor server answer by rote.
pub const KEY: &[u8; 16] = b"trunkline-loadgn";

/// What reading a connection needs beside it.
pub struct Desk<'a> {
    pub shared: &'a Shared,
    pub wire: &'a Wire,
    pub finder: &'a MarkFinder,
    pub measured: &'a mut Measured,
    pub tally: &'a mut Tally,
    pub inflated: &'a mut Inflated,
    pub out: &'a mut Outgoing,
    pub number: u32,
    pub now: Time,
    /// How long the bytes lay unread after they were known to be there.
    pub waited: Duration,
}

impl Desk<'_> {
    /// Takes the bytes of one read. `true`: the connection has become ready by them.
    ///
    /// # Errors
    /// Why it has to be closed.
    pub fn take(&mut self, conn: &mut Conn, bytes: &mut [u8]) -> Result<bool, Cause> {
        if conn.state != State::Upgrading {
            return self.take_stream(conn, bytes);
        }
        if conn.partial.is_none() {
            return match self.take_head(conn, bytes)? {
                Some(consumed) => self.go_on(conn, &mut bytes[consumed..]),
                None => {
                    conn.partial.get_or_insert_default().bytes.extend_from_slice(bytes);
                    Ok(false)
                }
            };
        }
        let mut partial = conn.partial.take().unwrap_or_default();
        partial.bytes.extend_from_slice(bytes);
        match self.take_head(conn, &partial.bytes)? {
            Some(consumed) => self.go_on(conn, &mut partial.bytes[consumed..]),
            None => {
                conn.partial = Some(partial);
                Ok(false)
            }
        }
    }

    /// The wire is open: the profile begins to speak.
    pub fn open(&mut self, conn: &mut Conn) -> bool {
        conn.state = State::Subscribing;
        let shared = self.shared;
        let said = shared.profile.open(&mut client(shared, self.number, conn), self.out);
        if said.ready {
            conn.state = State::Ready;
        }
        said.ready
    }

    /// Reads the answer to the upgrade or GET, if it is whole.
    fn take_head(&mut self, conn: &mut Conn, bytes: &[u8]) -> Result<Option<usize>, Cause> {
        let parsed = parse_response_head(bytes).map_err(|fault| Cause::Garbage(fault.reason))?;
        let Some((head, consumed)) = parsed else { return Ok(None) };
        match self.wire {
            Wire::WebSocket { subprotocols } | Wire::WebSocketStream { subprotocols } => {
                if head.status != 101 {
                    return Err(Cause::Status(head.status));
                }
                let offered: Vec<&str> = subprotocols.iter().map(String::as_str).collect();
                if !self.shared.compression {
                    check_response(&head, KEY, &offered).map_err(Cause::Garbage)?;
                } else {
                    check_upgrade(&head, KEY, &offered).map_err(Cause::Garbage)?;
                    if check_extension(&head).map_err(Cause::Garbage)? {
                        conn.flags |= COMPRESSED;
                        self.measured.counters.compressed_connections += 1;
                    }
                }
            }
            Wire::Http => {
                if head.status != 200 {
                    return Err(Cause::Status(head.status));
                }
                if is_chunked(&head) {
                    conn.flags |= CHUNKED;
                }
            }
            Wire::Tcp | Wire::LongPoll => {}
        }
        Ok(Some(consumed))
    }

    /// After the head: the profile speaks, then what came behind the head is taken.
    fn go_on(&mut self, conn: &mut Conn, rest: &mut [u8]) -> Result<bool, Cause> {
        let ready = self.open(conn);
        Ok(self.take_stream(conn, rest)? || ready)
    }

    fn take_stream(&mut self, conn: &mut Conn, bytes: &mut [u8]) -> Result<bool, Cause> {
        let was_ready = conn.state == State::Ready;
        match self.wire {
            Wire::WebSocket { .. } | Wire::WebSocketStream { .. } => self.take_frames(conn, bytes)?,
            Wire::LongPoll => self.take_responses(conn, bytes)?,
            Wire::Http if conn.is(CHUNKED) => self.take_chunks(conn, bytes)?,
            Wire::Http | Wire::Tcp => self.take_messages(conn, bytes)?,
        }
        Ok(!was_ready && conn.state == State::Ready)
    }

    fn take_frames(&mut self, conn: &mut Conn, bytes: &mut [u8]) -> Result<(), Cause> {
        let kept = conn.partial.as_mut().and_then(|partial| partial.decoder.take());
        // Only a stream inside the frames keeps text of its own.
        if conn.partial.as_ref().is_some_and(|partial| partial.text.is_empty()) {
            conn.partial = None;
        }
        let bytes_max = self.shared.message_bytes_max;
        let mut decoder =
            kept.unwrap_or_else(|| Decoder::new(Role::Client, bytes_max).deflating(conn.is(COMPRESSED)));
        let cause = |fault: WsFault| match fault.close_code {
            1009 => Cause::TooLong,
            _ => Cause::Protocol(fault.reason),
        };
        let mut at = 0;
        loop {
            let (consumed, message) = decoder.decode(&mut bytes[at..]).map_err(cause)?;
            at += consumed;
            match message {
                None => break,
                Some(Message::Text(text)) => self.take_framed(conn, text.as_bytes())?,
                Some(Message::Binary(bytes)) => self.take_framed(conn, bytes)?,
                Some(Message::Compressed { text, payload }) => {
                    self.measured.counters.compressed_messages += 1;
                    // Out of its place meanwhile: the message lies in it.
                    let mut inflated = std::mem::take(self.inflated);
                    let message = inflated.message(text, payload, bytes_max).map_err(cause);
                    let taken = message.and_then(|message| self.take_framed(conn, message));
                    *self.inflated = inflated;
                    taken?;
                }
                Some(Message::Ping(payload)) => {
                    self.out.pong(payload);
                    self.measured.counters.pings += 1;
                }
                Some(Message::Pong(_)) => {}
                Some(Message::Close { code, .. }) => {
                    let code = code.unwrap_or(1005);
                    self.out.close(if code == 1005 { 1000 } else { code });
                    return Err(Cause::ClosedByServer(code));
                }
            }
        }
        if !decoder.is_idle() {
            conn.partial.get_or_insert_default().decoder = Some(decoder);
        }
        Ok(())
    }

    fn take_framed(&mut self, conn: &mut Conn, message: &[u8]) -> Result<(), Cause> {
        match self.wire {
            Wire::WebSocketStream { .. } => self.take_messages(conn, message),
            _ => self.take_message(conn, message),
        }
    }

    /// Takes whole responses, and sends the next poll after each.
    fn take_responses(&mut self, conn: &mut Conn, bytes: &[u8]) -> Result<(), Cause> {
        let mut kept = conn.partial.take().unwrap_or_default();
        kept.bytes.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(response) = whole_response(&kept.bytes[at..], self.shared.message_bytes_max)? {
            match response.head.status {
                200 => self.take_message(conn, &response.body)?,
                // The poll's time is over.
                204 | 304 | 408 | 504 => self.measured.counters.other_messages += 1,
                status => return Err(Cause::Status(status)),
            }
            let validator =
                |name| response.head.fields.get(name).and_then(|value| std::str::from_utf8(value).ok());
            let since =
                [("If-Modified-Since", validator("Last-Modified")), ("If-None-Match", validator("Etag"))];
            at += response.len;
            write_get(self.out, self.shared, self.number, conn, &since);
        }
        kept.bytes.drain(..at);
        if !kept.bytes.is_empty() {
            conn.partial = Some(kept);
        }
        Ok(())
    }

    /// Cuts a stream into messages, with what is left of the reads before.
    fn take_messages(&mut self, conn: &mut Conn, bytes: &[u8]) -> Result<(), Cause> {
        let mut kept = conn.partial.take();
        let bytes = match &mut kept {
            Some(partial) => {
                partial.text.extend_from_slice(bytes);
                &partial.text[..]
            }
            None => bytes,
        };
        let mut at = 0;
        while at < bytes.len() {
            let shared = self.shared;
            let len = shared.profile.message_len(&client(shared, self.number, conn), &bytes[at..])?;
            let Some(len) = len.filter(|&len| len > 0) else { break };
            self.take_message(conn, &bytes[at..at + len])?;
            at += len;
        }
        if at < bytes.len() {
            if bytes.len() - at > self.shared.message_bytes_max {
                return Err(Cause::TooLong);
            }
            let text = bytes[at..].to_vec();
            conn.partial.get_or_insert_default().text = text;
        }
        Ok(())
    }

    /// Takes the chunks apart (RFC 9112 section 7.1), whole ones only.
    fn take_chunks(&mut self, conn: &mut Conn, bytes: &[u8]) -> Result<(), Cause> {
        let mut raw = match &mut conn.partial {
            Some(partial) => std::mem::take(&mut partial.bytes),
            None => Vec::new(),
        };
        let bytes = if raw.is_empty() {
            bytes
        } else {
            raw.extend_from_slice(bytes);
            &raw[..]
        };
        let mut at = 0;
        while let Some((start, len)) = chunk(&bytes[at..], self.shared.message_bytes_max)? {
            if len == 0 {
                return Err(Cause::Ended);
            }
            self.take_messages(conn, &bytes[at + start..at + start + len])?;
            at += start + len + 2;
        }
        if at < bytes.len() {
            let rest = bytes[at..].to_vec();
            conn.partial.get_or_insert_default().bytes = rest;
        } else if conn.partial.as_ref().is_some_and(|partial| partial.text.is_empty()) {
            conn.partial = None;
        }
        Ok(())
    }

    fn take_message(&mut self, conn: &mut Conn, message: &[u8]) -> Result<(), Cause> {
        let shared = self.shared;
        let said = shared.profile.handle(&mut client(shared, self.number, conn), message, self.out)?;
        let (begin, end) = said.reply_at;
        let (before, behind) = (&message[..begin], message.get(end..).unwrap_or_default());
        let found = self.take_marks(conn, before, said.recovered > 0)
            | self.take_marks(conn, behind, said.recovered > 0);
        let counters = &mut self.measured.counters;
        counters.pings += u64::from(said.pings);
        counters.recovered += u64::from(said.recovered);
        counters.unrecovered += u64::from(said.unrecovered);
        if !found {
            counters.other_messages += u64::from(said.others);
        }
        if said.replies > 0 {
            if let Some(code) = said.reply_error {
                self.measured.fail(Cause::RequestError(code));
            }
            self.take_reply(conn);
        }
        if said.ready && conn.state == State::Subscribing {
            conn.state = State::Ready;
        }
        Ok(())
    }

    /// Counts the publications and replies in a message. `late`: they were kept for a connection that was away.
    fn take_marks(&mut self, conn: &mut Conn, message: &[u8], late: bool) -> bool {
        if message.len() < crate::measure::MARK_BYTES {
            return false;
        }
        let mut found = false;
        for mark in self.finder.marks(message) {
            if mark.run != self.shared.run {
                continue;
            }
            found = true;
            if mark.kind == MarkKind::Request {
                self.take_reply(conn);
                continue;
            }
            let Some(subscription) = conn.subscriptions.get_mut(mark.channel) else {
                self.measured.counters.stray += 1;
                continue;
            };
            match subscription.arrive(&mark) {
                Arrival::InOrder => {}
                Arrival::Duplicate => {
                    self.measured.counters.duplicates += 1;
                    self.measured.disorder.entry(mark.channel).or_default().duplicates += 1;
                    continue;
                }
                Arrival::OutOfOrder => {
                    self.measured.counters.out_of_order += 1;
                    self.measured.disorder.entry(mark.channel).or_default().out_of_order += 1;
                }
            }
            if conn.is(STALLED) {
                self.measured.counters.deliveries_stalled += 1;
                continue;
            }
            self.tally.count(mark.number, self.now, self.measured);
            self.measured.counters.deliveries += 1;
            if !late && mark.planned.0 >= self.shared.measure_from.load(std::sync::atomic::Ordering::Relaxed)
            {
                self.measured.deliveries.record(self.now.since(mark.planned));
                self.measured.own_lag.record(self.waited);
            }
        }
        found
    }

    fn take_reply(&mut self, conn: &mut Conn) {
        if conn.is(WAITING) {
            conn.flags &= !WAITING;
            self.measured.counters.replies += 1;
            self.measured.replies.record(self.now.since(conn.since));
            self.measured.own_lag.record(self.waited);
        }
    }
}

/// Appends the upgrade of the connection's target to WebSocket.
pub fn write_upgrade(
    out: &mut Outgoing,
    shared: &Shared,
    host: &str,
    number: u32,
    conn: &mut Conn,
    subprotocols: &[String],
) {
    let target = shared.profile.target(&client(shared, number, conn));
    let offered: Vec<&str> = subprotocols.iter().map(String::as_str).collect();
    let fields: Vec<(&str, &[u8])> =
        shared.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    write_request(out.raw(), host, &target, KEY, &offered, &fields);
}

/// Appends a GET of the connection's target, with further fields as far as they have values.
pub fn write_get(
    out: &mut Outgoing,
    shared: &Shared,
    number: u32,
    conn: &mut Conn,
    fields: &[(&str, Option<&str>)],
) {
    let target = shared.profile.target(&client(shared, number, conn));
    let mut head = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n", shared.server(number).host);
    for (name, value) in &shared.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    for (name, value) in fields {
        if let Some(value) = value {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str("\r\n");
    out.raw().extend_from_slice(head.as_bytes());
}

/// The profile's view of a connection.
pub fn client<'a>(shared: &'a Shared, number: u32, conn: &'a mut Conn) -> Client<'a> {
    Client { number, step: &mut conn.step, positions: &mut conn.positions, audience: &shared.audience }
}

fn is_chunked(head: &ResponseHead<'_>) -> bool {
    head.fields.has_token("Transfer-Encoding", "chunked")
}

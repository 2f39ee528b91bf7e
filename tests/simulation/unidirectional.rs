//! Unidirectional clients, over every wire: they come back with their position, and nothing may be missing
//! or come twice that they were not told of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use trunkline::base::prng::Prng;
use trunkline::base::time::Time;
use trunkline::driver::sim::ClientState;
use trunkline::hub::options::GapPolicy;
use trunkline::proto::unidirectional::position::Positions;

use crate::audience::{Audience, TagFilter, Who};
use crate::check::{ChannelNo, Follower, PayloadNo, Place};
use crate::client::origin;
use crate::scenario::{Channel, Scenario, pick};
use crate::sealed::End;
use crate::wire::{self, Heard};
use crate::world::Stage;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Events,
    Lines,
    OldLines,
    Page,
    Socket,
    Poll,
}

const KINDS: [Kind; 6] = [Kind::Events, Kind::Lines, Kind::OldLines, Kind::Page, Kind::Socket, Kind::Poll];

/// How long it waits for an answer before it tries again.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct UnidirectionalClient {
    number: usize,
    kind: Kind,
    channels: Vec<ChannelNo>,
    /// Survives connections, and kinds.
    position: String,
    /// What it filters by: as long as it has its position.
    filter: Option<TagFilter>,
    /// The tag that it names itself by.
    origin: String,
    followers: BTreeMap<ChannelNo, Follower>,
    /// Channels whose loss was the last it heard of them: between two polls nothing is kept without a history.
    told: BTreeSet<ChannelNo>,
    end: Option<End>,
    bytes: Vec<u8>,
    /// Of an event stream: what has come, without chunks.
    events: Vec<u8>,
    socket: wire::Reader,
    /// The head of a stream has been read.
    open: bool,
    /// The first message of a stream has come, or a poll has been answered.
    ready: bool,
    /// Since when, without a break.
    ready_since: Time,
    since: Time,
    again_at: Time,
    paused_until: Option<Time>,
}

impl UnidirectionalClient {
    pub fn new(number: usize, stage_channels: &[bool], prng: &mut Prng) -> UnidirectionalClient {
        let open: Vec<ChannelNo> = (0..stage_channels.len()).filter(|&at| stage_channels[at]).collect();
        let mut channels: Vec<ChannelNo> = Vec::new();
        for _ in 0..*pick(prng, &[1, 1, 2, 3]) {
            let channel = *pick(prng, &open);
            if !channels.contains(&channel) {
                channels.push(channel);
            }
        }
        UnidirectionalClient {
            number,
            kind: *pick(prng, &KINDS),
            channels,
            position: String::new(),
            filter: None,
            origin: String::new(),
            followers: BTreeMap::new(),
            told: BTreeSet::new(),
            end: None,
            bytes: Vec::new(),
            events: Vec::new(),
            socket: wire::Reader::default(),
            open: false,
            ready: false,
            ready_since: Time::ZERO,
            since: Time::ZERO,
            again_at: Time::ZERO,
            paused_until: None,
        }
    }

    /// What only some runs have.
    pub fn with_extras(mut self, scenario: &Scenario, prng: &mut Prng) -> UnidirectionalClient {
        if scenario.extras.keeps && !self.number.is_multiple_of(3) {
            self.origin = origin(self.number % 3);
        }
        self.choose_filter(scenario, prng);
        self
    }

    fn choose_filter(&mut self, scenario: &Scenario, prng: &mut Prng) {
        if self.channels.iter().all(|&channel| scenario.channels[channel].filterable) {
            self.filter = prng.bool().then(|| TagFilter::draw(prng, 2));
        }
    }

    /// Without a user, and with an id that nobody knows.
    fn follow(&self, channel: ChannelNo, stage: &Stage) -> Follower {
        let Channel { imposed, asked_about, .. } = &stage.scenario.channels[channel];
        let imposed = imposed.clone().filter(|_| *asked_about);
        let who = Who { origin: self.origin.clone(), ..Who::default() };
        let audience = Audience::of(&who, self.filter.clone().into_iter().chain(imposed));
        Follower::new(None, None, GapPolicy::Tell, audience)
    }

    /// Checks that it has come to this place of a channel, if it has listened since `since` or knew where it stood before:
    /// see [`crate::client::Client::check_place`].
    pub fn check_place(
        &self,
        channel: ChannelNo,
        since: Time,
        place: Place,
        payload: PayloadNo,
        stage: &mut Stage,
    ) -> bool {
        let listens = self.end.is_some() && self.ready && self.channels.contains(&channel);
        if !listens || self.told.contains(&channel) {
            return false;
        }
        let follower = self.followers.get(&channel).cloned().unwrap_or_else(|| self.follow(channel, stage));
        let other_life = follower.epoch.is_some_and(|epoch| epoch != place.0);
        if self.ready_since >= since && (other_life || follower.last.is_none()) {
            return false;
        }
        assert!(!other_life, "it knows another life of {}", stage.name(channel));
        follower.check_place(channel, place, payload, &mut stage.log);
        true
    }

    pub fn describe(&self) -> String {
        format!("{:?} of {:?}", self.kind, self.channels)
    }

    pub fn step(&mut self, stage: &mut Stage) {
        let now = stage.net.now();
        if self.paused_until.is_some_and(|until| until <= now || stage.calm) {
            self.paused_until = None;
            if let Some(end) = &mut self.end {
                end.read_resume();
            }
        }
        if self.end.is_none() && self.again_at <= now {
            self.connect(stage);
        } else if self.end.is_some() && !self.ready && now.since(self.since) > PATIENCE {
            self.lose(stage);
        }
    }

    pub fn act(&mut self, stage: &mut Stage) {
        match stage.prng.u8(..12) {
            0..4 => {
                let pause = Duration::from_micros(stage.prng.u64(1_000..1_500_000));
                self.paused_until = Some(stage.net.now() + pause);
                if let Some(end) = &mut self.end {
                    end.read_pause();
                }
            }
            4..7 => self.lose(stage),
            7 => {
                // The same position over another wire.
                self.lose(stage);
                self.kind = *pick(&mut stage.prng, &KINDS);
            }
            8 => {
                if let Some(end) = &mut self.end {
                    end.reset();
                }
            }
            9 => {
                self.lose(stage);
                self.position.clear();
                self.followers.clear();
                self.choose_filter(&stage.scenario, &mut stage.prng);
            }
            _ => {}
        }
    }

    pub fn leave(&mut self) {
        self.end = None;
        self.ready = false;
    }

    fn lose(&mut self, stage: &mut Stage) {
        self.leave();
        self.paused_until = None;
        self.again_at = stage.net.now() + Duration::from_micros(stage.prng.u64(..300_000));
    }

    fn connect(&mut self, stage: &mut Stage) {
        (self.open, self.ready) = (false, false);
        self.bytes.clear();
        self.socket = wire::Reader::default();
        self.end = Some(stage.connect());
        self.ask(stage);
    }

    fn ask(&mut self, stage: &mut Stage) {
        self.since = stage.net.now();
        let path = match self.kind {
            Kind::Events => "/sse",
            Kind::Lines | Kind::OldLines | Kind::Page => "/stream",
            Kind::Socket => "/ws",
            Kind::Poll => "/poll",
        };
        let mut target = format!("{path}?");
        for &channel in &self.channels {
            target.push_str(&format!("channel={}&", stage.name(channel)));
        }
        if let Some(filter) = &self.filter {
            let text: String = filter.json().bytes().map(|byte| format!("%{byte:02X}")).collect();
            target.push_str(&format!("tf={text}&"));
        }
        if !self.origin.is_empty() {
            target.push_str(&format!("origin={}&", self.origin));
        }
        let mut fields = "Host: sim\r\n".to_string();
        match (self.kind, self.position.as_str()) {
            (_, "") => {}
            (Kind::Events, id) => fields.push_str(&format!("Last-Event-ID: {id}\r\n")),
            (_, position) => target.push_str(&format!("position={position}&")),
        }
        match self.kind {
            Kind::Page => target.push_str("callback=f"),
            Kind::Poll => {
                target.push_str(&format!("wait={}&limit={}", stage.prng.u8(..3), stage.prng.u8(1..9)))
            }
            Kind::Socket => fields.push_str(
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
            ),
            _ => {}
        }
        let version = if self.kind == Kind::OldLines { "1.0" } else { "1.1" };
        let request = format!("GET {target} HTTP/{version}\r\n{fields}\r\n");
        self.note(&format!("asks {request:?}"), stage);
        if let Some(end) = &mut self.end {
            end.send(request.as_bytes());
        }
    }

    pub fn hear(&mut self, stage: &mut Stage) {
        let Some(end) = &mut self.end else { return };
        let mut came = match self.kind {
            Kind::Socket => end.recv_into(self.socket.buffer()),
            _ => end.recv_into(&mut self.bytes),
        };
        let state = end.state();
        while came > 0 {
            let before = self.bytes.len();
            match self.kind {
                Kind::Socket => self.hear_socket(stage),
                Kind::Poll => self.hear_poll(stage),
                _ => self.hear_stream(stage),
            }
            if self.end.is_none() {
                return;
            }
            // Polls may have asked again; the rest of what came is looked at until nothing is taken from it.
            came = if self.bytes.len() < before { 1 } else { 0 };
        }
        if matches!(state, ClientState::Finished | ClientState::Reset | ClientState::Refused) {
            self.lose(stage);
        }
    }

    fn hear_poll(&mut self, stage: &mut Stage) {
        let Some(head) = self.head() else { return };
        let (end, status, text) = head;
        let length = text
            .split("Content-Length: ")
            .nth(1)
            .and_then(|rest| rest.split('\r').next())
            .map_or(0, |length| length.parse::<usize>().expect("a number"));
        if self.bytes.len() < end + length {
            return;
        }
        let body: Vec<u8> = self.bytes.drain(..end + length).skip(end).collect();
        if status != 200 {
            return self.refused(status, stage);
        }
        self.note(&String::from_utf8_lossy(&body), stage);
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        for channel in body["reset"].as_array().into_iter().flatten() {
            self.reset(channel, stage);
        }
        for message in body["messages"].as_array().expect("messages") {
            self.message(message, stage);
        }
        self.moved(body["position"].as_str().expect("a position"), stage);
        if !self.ready {
            self.ready_since = stage.net.now();
        }
        self.ready = true;
        stage.coverage.count("unidirectional_polled");
        if text.contains("Connection: close") {
            return self.lose(stage);
        }
        self.ask(stage);
        self.ready = true;
    }

    fn hear_stream(&mut self, stage: &mut Stage) {
        if !self.open {
            let Some((end, status, text)) = self.head() else { return };
            if self.kind == Kind::Events && text.contains("Content-Length: ") && status == 200 {
                // A stream that is over with its answer: what is temporary is said so.
                if !self.bytes.ends_with(b"\n\n") {
                    return;
                }
                let body = String::from_utf8_lossy(&self.bytes[end..]).into_owned();
                assert!(body.starts_with("retry: ") && body.contains("\nevent: disconnect\n"), "{body}");
                return self.refused(503, stage);
            }
            self.bytes.drain(..end);
            if status != 200 {
                return self.refused(status, stage);
            }
            self.open = true;
            self.events.clear();
        }
        loop {
            let piece: Vec<u8> = match self.kind {
                Kind::Events => {
                    while let Some(lines) = chunked_line(&mut self.bytes) {
                        self.events.extend(lines);
                    }
                    match self.events.windows(2).position(|two| two == b"\n\n") {
                        Some(at) => self.events.drain(..at + 2).collect(),
                        None => return,
                    }
                }
                Kind::Lines => match chunked_line(&mut self.bytes) {
                    Some(line) => line,
                    None => return,
                },
                _ => match self.bytes.iter().position(|&byte| byte == b'\n') {
                    Some(at) => self.bytes.drain(..=at).collect(),
                    None => return,
                },
            };
            let text = std::str::from_utf8(&piece).expect("UTF-8");
            let mut id = None;
            let json = match self.kind {
                Kind::Events => {
                    let field = |name| text.lines().find_map(|line| line.strip_prefix(name));
                    let data = field("data: ");
                    id = field("id: ").filter(|_| data.is_some());
                    data.unwrap_or_default()
                }
                Kind::Page => match text.trim().strip_prefix("<script>t(") {
                    Some(call) => call.strip_suffix(")</script>").expect("a whole call"),
                    None => "",
                },
                _ => text.trim(),
            };
            if !json.is_empty() {
                self.envelope(json, stage);
            }
            if let Some(id) = id {
                self.moved(id, stage);
            }
        }
    }

    fn hear_socket(&mut self, stage: &mut Stage) {
        while let Some(heard) = self.socket.next() {
            match heard {
                Heard::Upgraded => {}
                Heard::Status(status) => return self.refused(status, stage),
                Heard::Text(text) => self.envelope(std::str::from_utf8(&text).expect("UTF-8"), stage),
                Heard::Ping(payload) => {
                    let mut frame = Vec::new();
                    wire::write_frame(&mut frame, wire::PONG, true, &payload, &mut stage.prng);
                    if let Some(end) = &mut self.end {
                        end.send(&frame);
                    }
                }
                Heard::Pong => {}
                Heard::Binary(_) => panic!("what it gets is JSON"),
                Heard::Close(code) => {
                    assert!(matches!(code, 3001 | 3005 | 3008 | 3011 | 3012), "closed with {code}");
                    return self.lose(stage);
                }
            }
        }
    }

    /// One message of a stream.
    fn envelope(&mut self, json: &str, stage: &mut Stage) {
        self.note(json, stage);
        let message: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error} in {json}"));
        if !message["reset"].is_null() {
            self.reset(&message["reset"], stage);
        } else if !message["channel"].is_null() {
            assert!(self.ready, "a message before the stream is ready");
            self.message(&message, stage);
        } else if message["ready"] == true {
            assert!(!self.ready, "ready once more");
            (self.ready, self.ready_since) = (true, stage.net.now());
            stage.coverage.count("unidirectional_ready");
        } else {
            assert!(!message["disconnect"].is_null(), "{json}");
        }
        if let Some(position) = message["position"].as_str() {
            self.moved(position, stage);
        }
    }

    /// A position came: what stands before it, and was not given to the client, is not for it.
    fn moved(&mut self, text: &str, stage: &mut Stage) {
        self.position = text.to_string();
        let positions = Positions::parse(text).expect("a position of ours");
        for &channel in &self.channels {
            let Some(position) = positions.get(stage.name(channel)) else { continue };
            let known = self.followers.remove(&channel);
            let mut follower = known.unwrap_or_else(|| self.follow(channel, stage));
            let epoch = *follower.epoch.get_or_insert(position.epoch.0);
            assert_eq!(epoch, position.epoch.0, "another life of {} without a word", stage.name(channel));
            let before = follower.last;
            follower.stands_at(channel, (epoch, position.offset.0), &mut stage.log);
            if before.is_some_and(|before| before < position.offset.0) {
                stage.coverage.count("unidirectional_moved_past_what_is_not_for_it");
            }
            self.followers.insert(channel, follower);
        }
    }

    fn message(&mut self, message: &Value, stage: &mut Stage) {
        let channel = stage.channel(message["channel"].as_str().expect("a name"));
        assert!(self.channels.contains(&channel), "a message of another channel");
        let offset = message["offset"].as_u64().unwrap_or(0);
        // Object members come back in another order than they were written: the number says which it is.
        let number = message["data"]["n"].as_u64().expect("a payload of ours");
        let pad = message["data"]["pad"].as_str().unwrap_or_default();
        let data = format!(r#"{{"n":{number},"pad":"{pad}"}}"#);
        let mut follower = self.followers.remove(&channel).unwrap_or_else(|| self.follow(channel, stage));
        follower.pushed(channel, offset, &data, &mut stage.log);
        self.followers.insert(channel, follower);
        self.told.remove(&channel);
        stage.coverage.count("unidirectional_message");
    }

    fn reset(&mut self, channel: &Value, stage: &mut Stage) {
        let channel = stage.channel(channel.as_str().expect("a name"));
        assert!(self.channels.contains(&channel));
        self.followers.remove(&channel);
        self.told.insert(channel);
        stage.coverage.count("unidirectional_reset");
    }

    fn refused(&mut self, status: u16, stage: &mut Stage) {
        // 408: the request came too slowly. 503: no more channels fit, or the shard is about to end. 403: the backend's
        // word. 401: what it granted was over before it began.
        let by_hook = stage.scenario.hooked && matches!(status, 401 | 403);
        let by_network = stage.scenario.options.admission.is_some() && status == 429;
        assert!(
            matches!(status, 408 | 503) || by_hook || by_network,
            "a sound request was answered with {status}"
        );
        stage.coverage.add("unidirectional_refused_by_admission", by_network.into());
        if status == 403 {
            stage.coverage.count("unidirectional_refused_by_backend");
        }
        self.lose(stage);
    }

    fn note(&self, text: &str, stage: &Stage) {
        stage.note(1000 + self.number, '<', &format!("{} {text}", self.describe()));
    }

    /// Where a head ends, its status and its text.
    fn head(&self) -> Option<(usize, u16, String)> {
        let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let text = std::str::from_utf8(&self.bytes[..end]).expect("heads are ASCII").to_string();
        let status = text.get(9..12).and_then(|status| status.parse().ok()).expect("a status line");
        Some((end, status, text))
    }
}

/// Takes a line out of whole chunks; lines end where chunks end, but need not begin there.
fn chunked_line(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (mut at, mut line) = (0, Vec::new());
    loop {
        let end = at + bytes[at..].windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..end]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        let chunk = bytes.get(end + 2..end + 2 + size + 2)?;
        assert_eq!(&chunk[size..], b"\r\n", "a chunk longer than its size");
        line.extend_from_slice(&chunk[..size]);
        at = end + 2 + size + 2;
        if size == 0 || line.ends_with(b"\n") {
            bytes.drain(..at);
            return Some(line);
        }
    }
}

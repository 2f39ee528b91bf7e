//! What a client says: its handshake, its tokens, its commands.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use trunkline::session::token::{ConnectToken, SubscribeToken, TokenBasis, sign_connect, sign_subscribe};

use super::{Client, Phase, Sent, Subscribing, user_name};
use crate::audience::TagFilter;
use crate::check::ChannelNo;
use crate::protobuf::shown;
use crate::scenario::{Channel, SECRET, pick, unix_s};
use crate::wire;
use crate::world::Stage;

impl Client {
    pub(super) fn open(&mut self, stage: &mut Stage) {
        self.reader = self.new_reader();
        self.next_id = 0;
        let mut end = stage.connect();
        stage.note(self.number, '>', &format!("connects as {}", end.number()));
        if self.is_websocket() {
            // By its number: what else it draws stays the same.
            end.send(&wire::handshake(self.number.is_multiple_of(2), &self.query()));
        }
        self.end = Some(end);
        self.phase = Phase::Opening { since: stage.net.now() };
        // Half of them do not wait for the answer to their handshake; without one the connect is the request itself.
        if stage.prng.bool() || !self.is_websocket() {
            self.connect(stage);
        }
    }

    pub(super) fn connect(&mut self, stage: &mut Stage) {
        let (mut token, mut data) = (String::new(), String::new());
        let by_hook = stage.scenario.hooked && (self.user.is_none() || self.number.is_multiple_of(2));
        if self.user.is_some() || by_hook {
            let now_s = unix_s(stage.net.now());
            for _ in 0..stage.prng.usize(..3) {
                let channel = stage.prng.usize(..stage.scenario.channels.len());
                if self.cannot_read(channel, stage) && (stage.calm || stage.prng.u8(..4) != 0) {
                    continue;
                }
                if !self.wanted.contains(&channel) {
                    self.asked_for_bytes |= self.cannot_read(channel, stage);
                    self.granted.insert(channel);
                }
            }
            let expires_at_s = match stage.prng.u8(..if stage.calm { 1 } else { 4 }) {
                0..3 => None,
                _ => Some(now_s + stage.prng.u64(..4)),
            };
            let channels: Vec<String> =
                self.granted.iter().map(|&channel| stage.name(channel).to_string()).collect();
            let user = self.user.map(user_name).unwrap_or_default();
            if by_hook {
                // What it has in its data the backend lets it have.
                let expire_at = expires_at_s.unwrap_or(0);
                data = format!(r#","data":{{"user":"{user}","subs":{channels:?},"expire_at":{expire_at}}}"#);
                self.asked_to_connect = Some(stage.net.now());
            } else {
                let basis = TokenBasis { user: &user, expires_at_s, ..TokenBasis::default() };
                let unsigned = ConnectToken { basis, channels: &channels, ..ConnectToken::default() };
                token = sign_connect(SECRET, &unsigned).expect("the token is short");
            }
        }
        let recover: BTreeMap<ChannelNo, (u64, u64)> = self
            .granted
            .iter()
            .filter_map(|channel| self.kept.get(channel).map(|&kept| (*channel, kept)))
            .collect();
        let floors =
            self.granted.iter().filter_map(|&channel| stage.log.head(channel).map(|head| (channel, head)));
        let floors = floors.collect();
        let subs: Vec<String> = recover
            .iter()
            .map(|(&channel, (offset, epoch))| {
                let name = stage.name(channel);
                format!(r#""{name}":{{"recover":true,"offset":{offset},"epoch":"{epoch:08x}"}}"#)
            })
            .collect();
        let subs = subs.join(",");
        let body = format!(r#""connect":{{"token":"{token}","subs":{{{subs}}},"name":"sim"{data}}}"#);
        self.command(Sent::Connect { recover, floors }, &body, stage);
        // The SDK sends its pending subscribes along.
        if stage.prng.bool() {
            self.subscribe_wanted(stage);
        }
        self.send_batch(stage);
    }

    pub(super) fn subscribe_wanted(&mut self, stage: &mut Stage) {
        let wanted: Vec<ChannelNo> = self.wanted.iter().copied().collect();
        for channel in wanted {
            let under_way = self.sent.values().any(|(_, sent)| match sent {
                Sent::Subscribe(subscribing) => subscribing.channel == channel,
                Sent::Unsubscribe { channel: leaving } => *leaving == channel,
                _ => false,
            });
            if !under_way && !self.subs.contains_key(&channel) && !self.granted.contains(&channel) {
                self.subscribe(channel, stage);
            }
        }
    }

    pub(super) fn subscribe(&mut self, channel: ChannelNo, stage: &mut Stage) {
        let name = stage.name(channel).to_string();
        let mut body = format!(r#""subscribe":{{"channel":"{name}""#);
        let mut filters = Vec::new();
        if stage.scenario.channels[channel].filterable && stage.prng.bool() {
            let filter = TagFilter::draw(&mut stage.prng, 2);
            body.push_str(&format!(r#","tf":{}"#, filter.json()));
            filters.push(filter);
        }
        self.asked_for_bytes |= self.cannot_read(channel, stage);
        let Channel { needs_token, asked_about, .. } = stage.scenario.channels[channel];
        let mut granted = asked_about;
        if needs_token && (stage.calm || stage.prng.u8(..8) != 0) {
            granted = true;
            let expires_at_s = match stage.prng.u8(..if stage.calm { 1 } else { 4 }) {
                0..3 => None,
                _ => Some(unix_s(stage.net.now()) + stage.prng.u64(1..4)),
            };
            let user = self.user.map(user_name).unwrap_or_default();
            let basis = TokenBasis { user: &user, expires_at_s, ..TokenBasis::default() };
            let token = match &stage.scenario.channels[channel].imposed {
                Some(filter) => sign_filtered(&SubscribeToken { basis, channel: &name }, filter),
                None => sign_subscribe(SECRET, &SubscribeToken { basis, channel: &name })
                    .expect("the token is short"),
            };
            body.push_str(&format!(r#","token":"{token}""#));
        }
        let mut recover = self.kept.get(&channel).copied();
        if stage.prng.u8(..20) == 0 {
            // An offset that it should not have, or an epoch.
            recover = Some(match (recover, stage.prng.bool()) {
                (Some((offset, epoch)), true) => (offset.saturating_sub(stage.prng.u64(..4)), epoch),
                (Some((offset, epoch)), false) => (offset + stage.prng.u64(..4), epoch),
                (None, _) => (stage.prng.u64(..5), stage.prng.u32(..).into()),
            });
        }
        if let Some((offset, epoch)) = recover {
            body.push_str(&format!(r#","recover":true,"offset":{offset},"epoch":"{epoch:08x}""#));
            if stage.prng.u8(..6) == 0 {
                body.push_str(r#","flag":2"#);
            }
        }
        let join_leaves = stage.prng.u8(..3) != 0;
        for (wish, wished) in [
            ("positioned", stage.prng.u8(..3) != 0),
            ("recoverable", stage.prng.u8(..3) != 0),
            ("join_leave", join_leaves),
        ] {
            if wished {
                body.push_str(&format!(r#","{wish}":true"#));
            }
        }
        body.push('}');
        let floor = stage.log.head(channel);
        let imposed = stage.scenario.channels[channel].imposed.clone().filter(|_| granted);
        self.command(
            Sent::Subscribe(Subscribing {
                channel,
                recover,
                floor,
                join_leaves,
                imposed: imposed.is_some(),
                filters: filters.into_iter().chain(imposed).collect(),
                dead: false,
                uncertain: false,
            }),
            &body,
            stage,
        );
    }

    /// Asks for what must be refused: a filter of no form, or one where there may be none.
    pub(super) fn filter_in_vain(&mut self, channel: ChannelNo, stage: &mut Stage) {
        let name = stage.name(channel);
        if stage.scenario.channels[channel].filterable {
            let filter = *pick(
                &mut stage.prng,
                &[r#"{"key":"kind","cmp":"like","val":"goal"}"#, r#"{"op":"xor","nodes":[]}"#, "{}"],
            );
            let name = stage.name(channel);
            let body = format!(r#""subscribe":{{"channel":"{name}","tf":{filter}}}"#);
            return self.command(Sent::Hopeless { code: 107 }, &body, stage);
        }
        let filter = TagFilter::HasKind.json();
        let body = format!(r#""subscribe":{{"channel":"{name}","tf":{filter}}}"#);
        self.command(Sent::Unfilterable, &body, stage);
    }

    pub(super) fn unsubscribe(&mut self, channel: ChannelNo, stage: &mut Stage) {
        let body = format!(r#""unsubscribe":{{"channel":"{}"}}"#, stage.name(channel));
        self.command(Sent::Unsubscribe { channel }, &body, stage);
    }

    pub(super) fn publish(&mut self, channel: ChannelNo, stage: &mut Stage) {
        let bytes = self.protobuf && stage.scenario.channels[channel].bytes && stage.prng.bool();
        let (payload, data) = match bytes {
            true => stage.log.write_bytes(channel, false, &mut stage.prng),
            false => stage.log.write(channel, false, &mut stage.prng),
        };
        let data = shown(&data);
        let body = format!(r#""publish":{{"channel":"{}","data":{data}}}"#, stage.name(channel));
        self.command(Sent::Publish { payload }, &body, stage);
    }

    pub(super) fn history(&mut self, channel: ChannelNo, stage: &mut Stage) {
        let limit = stage.prng.i64(-1..10);
        let reverse = stage.prng.bool();
        let since = match (self.kept.get(&channel), stage.prng.bool()) {
            (Some((offset, epoch)), true) => {
                format!(r#","since":{{"offset":{offset},"epoch":"{epoch:08x}"}}"#)
            }
            _ => String::new(),
        };
        let name = stage.name(channel);
        let body = format!(r#""history":{{"channel":"{name}","limit":{limit},"reverse":{reverse}{since}}}"#);
        let floor = stage.log.head(channel);
        self.asked_for_bytes |= self.cannot_read(channel, stage);
        let sub = self.subs.get(&channel).filter(|sub| sub.imposed && !sub.uncertain);
        let filtered_since = sub.map(|sub| sub.began);
        self.command(Sent::History { channel, floor, reverse, filtered_since }, &body, stage);
    }

    pub(super) fn ask(&mut self, stage: &mut Stage, sent: Sent, body: impl FnOnce(&str) -> String) {
        let channel = stage.prng.usize(..stage.scenario.channels.len());
        let body = body(stage.name(channel));
        self.command(sent, &body, stage);
    }

    pub(super) fn rpc(&mut self, stage: &mut Stage) {
        if !stage.scenario.hooked {
            return self.command(Sent::Hopeless { code: 108 }, r#""rpc":{"method":"m","data":1}"#, stage);
        }
        // Several: the second waits for the first.
        for _ in 0..stage.prng.usize(1..4) {
            let number = stage.prng.u32(..);
            self.command(Sent::Rpc { number }, &format!(r#""rpc":{{"method":"m","data":{number}}}"#), stage);
        }
    }

    pub(super) fn refresh(&mut self, stage: &mut Stage) {
        let Some(user) = self.user else { return };
        let expires_at_s = stage.prng.bool().then(|| unix_s(stage.net.now()) + stage.prng.u64(1..4));
        let user = user_name(user);
        let basis = TokenBasis { user: &user, expires_at_s, ..TokenBasis::default() };
        // The channels of the connect's token: one without them would end their subscriptions.
        let channels: Vec<String> =
            self.granted.iter().map(|&channel| stage.name(channel).to_string()).collect();
        let token = ConnectToken { basis, channels: &channels, ..ConnectToken::default() };
        let token = sign_connect(SECRET, &token).expect("the token is short");
        self.command(Sent::Refresh, &format!(r#""refresh":{{"token":"{token}"}}"#), stage);
    }

    pub(super) fn sub_refresh(&mut self, channel: ChannelNo, stage: &mut Stage) {
        let expires_at_s = stage.prng.bool().then(|| unix_s(stage.net.now()) + stage.prng.u64(1..4));
        let (user, name) = (self.user.map(user_name).unwrap_or_default(), stage.name(channel));
        let basis = TokenBasis { user: &user, expires_at_s, ..TokenBasis::default() };
        let token =
            sign_subscribe(SECRET, &SubscribeToken { basis, channel: name }).expect("the token is short");
        self.command(
            Sent::SubRefresh { channel },
            &format!(r#""sub_refresh":{{"channel":"{name}","token":"{token}"}}"#),
            stage,
        );
    }

    pub(super) fn command(&mut self, sent: Sent, body: &str, stage: &Stage) {
        self.next_id += 1;
        self.sent.insert(self.next_id, (stage.net.now(), sent));
        self.batch.push(format!(r#"{{"id":{},{body}}}"#, self.next_id));
    }

    pub(super) fn send_batch(&mut self, stage: &mut Stage) {
        if !self.batch.is_empty() {
            let lines = std::mem::take(&mut self.batch);
            stage.note(self.number, '>', &lines.join("\n"));
            self.send_commands(&lines, stage);
        }
    }

    pub(super) fn send_frame(&mut self, opcode: u8, payload: &[u8], stage: &mut Stage) {
        let mut frame = Vec::with_capacity(payload.len() + 16);
        match matches!(opcode, wire::TEXT | wire::BINARY) && self.reader.compresses {
            true => wire::write_compressed(&mut frame, opcode, payload, &mut stage.prng),
            false => wire::write_message(&mut frame, opcode, payload, &mut stage.prng),
        }
        if let Some(end) = &mut self.end {
            end.send(&frame);
        }
    }
}

/// A subscription token with a filter that the backend imposes.
fn sign_filtered(token: &SubscribeToken<'_>, filter: &TagFilter) -> String {
    let mut claims = serde_json::to_value(token).expect("claims are JSON");
    claims["server_tags_filter"] = serde_json::from_str(&filter.json()).expect("a filter is JSON");
    let parts = [r#"{"alg":"HS256"}"#.to_string(), claims.to_string()];
    let signed = parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET);
    let signature = ring::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

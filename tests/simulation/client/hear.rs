//! What a client hears, and why it believes none of it.

use std::collections::BTreeMap;
use std::time::Duration;

use trunkline::base::time::Time;
use trunkline::driver::sim::ClientState;
use trunkline::hub::options::GapPolicy;

use super::{Client, Phase, Sent, Subscribing, Subscription};
use crate::audience::Audience;
use crate::check::{ChannelNo, Follower, Place, check_page, unbroken};
use crate::protobuf;
use crate::wire::{self, Heard, Message, PushBody, SubscribeBody};
use crate::world::Stage;

impl Client {
    /// Reads what has arrived.
    pub fn hear(&mut self, stage: &mut Stage) {
        self.pump(stage);
        let Some(end) = &mut self.end else { return };
        let came = end.recv_into(self.reader.buffer());
        if came > 0 {
            while let Some(heard) = self.reader.next() {
                self.handle(heard, stage);
                if self.end.is_none() {
                    return;
                }
            }
        }
        let Some(end) = &self.end else { return };
        let state = end.state();
        // Where a plain connection gets its 503, one over TLS is closed within the handshake.
        let limited = stage.scenario.cramped || stage.scenario.options.admission.is_some();
        let refused = end.in_handshake() && limited;
        if refused && state == ClientState::Finished {
            stage.coverage.count("tls_refused_in_handshake");
        }
        assert!(
            refused
                || state != ClientState::Finished
                || end.finished()
                || self.mute
                || !stage.settled
                || stage.ending,
            "client {} is cut off without a word, though it reads and answers",
            self.number
        );
        if matches!(state, ClientState::Finished | ClientState::Reset | ClientState::Refused)
            && (came == 0 || self.paused_until.is_none())
        {
            self.lose(stage);
        }
    }

    fn handle(&mut self, heard: Heard, stage: &mut Stage) {
        match heard {
            Heard::Upgraded => {
                if self.next_id == 0 {
                    self.connect(stage);
                }
            }
            Heard::Status(status) => {
                // 408: the request came too slowly. 503: there are as many connections, or bytes of unfinished requests,
                // as there may be.
                let options = &stage.scenario.options;
                let tight = stage.scenario.cramped || options.http.input.bytes_max() < 1 << 20;
                let full = status == 503 && tight;
                // Its network, or all together, come too fast, or too many have not said who they are.
                let limited = options.admission.is_some() && matches!(status, 429 | 503);
                assert!(status == 408 || full || limited, "the handshake was answered with {status}");
                match limited {
                    true => stage.coverage.count("refused_by_admission"),
                    false if full => stage.coverage.count("refused_as_full"),
                    false => {}
                }
                self.lose(stage);
            }
            Heard::Text(text) => {
                let text = std::str::from_utf8(&text).expect("text messages are UTF-8");
                for line in text.split('\n') {
                    self.handle_line(line, stage);
                    if self.end.is_none() {
                        return;
                    }
                }
            }
            Heard::Binary(bytes) => {
                let mut rest = &bytes[..];
                while let Some(message) = protobuf::take_message(&mut rest) {
                    self.handle_line(&protobuf::reply(message), stage);
                    if self.end.is_none() {
                        return;
                    }
                }
                assert!(rest.is_empty(), "a message that is cut");
            }
            Heard::Ping(_) => panic!("the shard sends no WebSocket pings"),
            Heard::Pong => {}
            Heard::Close(code) => self.handle_close(code, stage),
        }
    }

    /// Whether it is in a channel of an engine that closes those who miss something.
    fn may_have_lost_something(&self, stage: &Stage) -> bool {
        let closes =
            |channel: &ChannelNo| stage.scenario.channels[*channel].options.channel.gap == GapPolicy::Close;
        stage.scenario.engine.iter().any(|channel| self.subs.contains_key(channel) && closes(channel))
    }

    fn handle_close(&mut self, code: u16, stage: &mut Stage) {
        stage.note(self.number, '<', &format!("Close {code}"));
        match code {
            // What an engine lost may come to light with the next item, when its log has it no more.
            3008 if self.may_have_lost_something(stage) => stage.coverage.count("closed_for_a_gap"),
            3008 | 3012 if stage.settled && !self.mute && !stage.ending => {
                panic!("client {} is closed with {code}, though it reads and answers", self.number);
            }
            3008 => stage.coverage.count("closed_as_slow"),
            3001 => {
                assert!(stage.ending, "told of a shutdown that nobody ordered");
                stage.coverage.count("shutdown_heard");
                stage.shutdowns_heard += 1;
            }
            // What it sent itself, or was done to it.
            4400 => panic!("an order for another user was carried out"),
            // 3006: a subscription that the server made has expired, and the client cannot renew it.
            // 3004: no channel more fits for what its token grants.
            // 3011: nor does the connection have room for what its next token grants.
            1000 | 3000 | 3004 | 3005 | 3006 | 3010 | 3011 | 3012 | 3502 | 4000 => {}
            3506 => {
                let may = self.asked_for_bytes || stage.bytes_ordered;
                assert!(!self.protobuf && may, "client {} is closed with 3506", self.number);
                stage.coverage.count("closed_for_bytes");
            }
            other => panic!("closed with {other}"),
        }
        if !self.is_websocket() {
            stage.coverage.count("emulated_end_heard");
            return self.lose(stage);
        }
        match stage.prng.u8(..3) {
            0 => self.send_frame(wire::CLOSE, &code.to_be_bytes(), stage),
            1 => {
                self.send_frame(wire::CLOSE, &code.to_be_bytes(), stage);
                if let Some(end) = &mut self.end {
                    end.finish();
                }
            }
            _ => {}
        }
        self.lose(stage);
    }

    fn handle_line(&mut self, line: &str, stage: &mut Stage) {
        stage.note(self.number, '<', line);
        if line == "{}" {
            if !self.mute {
                self.batch.push("{}".into());
                self.send_batch(stage);
            }
            return;
        }
        let message: Message<'_> =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        match message.push {
            Some(push) => {
                assert_eq!(message.id, 0, "a push has no id");
                self.handle_push(push, stage);
            }
            None => self.handle_reply(message, stage),
        }
    }

    fn handle_reply(&mut self, message: Message<'_>, stage: &mut Stage) {
        let id = message.id;
        let (_, sent) =
            self.sent.remove(&id).unwrap_or_else(|| panic!("reply {id} was not asked for, or came before"));
        if let Some(error) = message.error {
            return self.handle_refusal(sent, error.code, error.temporary, stage);
        }
        match sent {
            Sent::Connect { recover, floors } => {
                let body = message.connect.expect("a connect is answered with a connect");
                self.id = body.client;
                if let Some(asked) = self.asked_to_connect {
                    assert!(!body.expires, "it has no token that it could refresh");
                    let took = stage.net.now().since(asked);
                    if took > stage.scenario.options.connect_timeout {
                        stage.coverage.count("connect_asked_about_longer_than_the_timeout");
                    }
                }
                self.expires = ends(body.expires, body.ttl, stage);
                (self.phase, self.ready_since) = (Phase::Ready, stage.net.now());
                assert_eq!(body.session.is_empty(), self.is_websocket(), "a session for whom it is of use");
                (self.uplink.session, self.uplink.node) = (body.session, body.node);
                let by_hook = self.asked_to_connect.is_some();
                for (name, sub) in body.subs {
                    let channel = stage.channel(name);
                    assert!(
                        self.granted.contains(&channel),
                        "subscribed to {name}, which the token does not name"
                    );
                    if sub.recovered {
                        stage.coverage.count("server_side_recovered");
                    }
                    assert!(!self.cannot_read(channel, stage), "subscribed to {name}, which it cannot read");
                    let (recover, floor) = (recover.get(&channel), floors.get(&channel));
                    let imposed = stage.scenario.channels[channel].imposed.clone().filter(|_| by_hook);
                    let by = By::Server { imposed: imposed.is_some() };
                    let audience = Audience::of(&self.who(), imposed);
                    let sub = begin(channel, &sub, recover.copied(), floor.copied(), by, audience, stage);
                    self.subscribed(channel, sub);
                }
                self.granted.retain(|channel| self.subs.contains_key(channel));
            }
            Sent::Subscribe(subscribing) => {
                let body = message.subscribe.expect("a subscribe is answered with a subscribe");
                let channel = subscribing.channel;
                let name = stage.name(channel);
                assert!(!self.cannot_read(channel, stage), "subscribed to {name}, which it cannot read");
                let Subscribing { recover, floor, join_leaves, imposed, filters, .. } = &subscribing;
                let by = By::Client { join_leaves: *join_leaves, imposed: *imposed };
                let audience = Audience::of(&self.who(), filters.iter().cloned());
                let mut sub = begin(channel, &body, *recover, *floor, by, audience, stage);
                if subscribing.dead {
                    return;
                }
                sub.uncertain = subscribing.uncertain;
                let clear = sub.uncertain;
                self.subscribed(channel, sub);
                if clear {
                    self.unsubscribe(channel, stage);
                    self.send_batch(stage);
                }
            }
            Sent::Unsubscribe { channel } => {
                assert!(message.unsubscribe.is_some(), "an unsubscribe is answered with an unsubscribe");
                self.end_subscription(channel);
                for (&other, (_, sent)) in &mut self.sent {
                    if let Sent::Subscribe(subscribing) = sent
                        && subscribing.channel == channel
                        && other < id
                    {
                        subscribing.dead = true;
                    }
                }
            }
            Sent::Publish { payload } => {
                assert!(message.publish.is_some(), "a publish is answered with a publish");
                stage.log.accepted(payload);
            }
            Sent::History { channel, floor, reverse, filtered_since } => {
                assert!(!self.cannot_read(channel, stage), "the history of bytes");
                let still = self.subs.get(&channel).is_some_and(|sub| Some(sub.began) == filtered_since);
                assert!(!still, "the history shows what its subscription is not to have");
                let body = message.history.expect("a history is answered with a history");
                let epoch = u64::from_str_radix(body.epoch, 16).expect("an epoch");
                stage.coverage.add("history_read", body.publications.len() as u64);
                let list: Vec<(u64, &str)> =
                    body.publications.iter().map(|entry| (entry.offset, entry.data.get())).collect();
                let audience = Audience::of(&self.who(), None);
                check_page(channel, (epoch, body.offset), list, floor, reverse, &mut stage.log, &audience);
            }
            Sent::Presence => assert!(message.presence.is_some()),
            Sent::PresenceStats => {
                let stats = message.presence_stats.expect("it is answered with its own kind");
                assert!(stats.num_users <= stats.num_clients);
            }
            Sent::Ping => assert!(message.ping.is_some()),
            Sent::Refresh => {
                let body = message.refresh.expect("a refresh is answered with a refresh");
                assert_eq!(body.client, self.id);
                self.expires = ends(body.expires, body.ttl, stage);
            }
            Sent::SubRefresh { channel } => {
                let lifetime = message.sub_refresh.expect("it is answered with its own kind");
                if let Some(sub) = self.subs.get_mut(&channel) {
                    sub.expires = ends(lifetime.expires, lifetime.ttl, stage);
                }
            }
            Sent::Rpc { number } => {
                let body = message.rpc.expect("a call is answered with a call");
                assert_eq!(body.data.get(), number.to_string(), "the answer to another call");
                stage.coverage.count("called");
            }
            Sent::Hopeless { code } => panic!("what must be refused with {code} was not"),
            Sent::Unfilterable => panic!("a filter where there may be none"),
        }
    }

    fn handle_refusal(&mut self, sent: Sent, code: u16, temporary: bool, stage: &mut Stage) {
        match sent {
            Sent::Connect { .. } => {
                let by_hook = self.asked_to_connect.is_some() && matches!(code, 100 | 1234);
                assert!(code == 109 || by_hook, "connect refused with {code}");
                stage.coverage.add("connect_refused_by_backend", (code == 1234).into());
                self.lose(stage);
            }
            Sent::Subscribe(Subscribing { channel, recover, .. }) => match code {
                112 => {
                    assert!(recover.is_some(), "nothing was to be recovered");
                    self.kept.remove(&channel);
                }
                103 => {
                    let channel = &stage.scenario.channels[channel];
                    assert!(channel.needs_token || channel.asked_about, "it may subscribe");
                }
                1234 => {
                    assert!(stage.scenario.channels[channel].asked_about);
                    stage.coverage.count("subscribe_refused_by_backend");
                }
                105 | 109 => {}
                // A limit of the connection, where asking again would not help, or of the hub, where it might.
                106 => {
                    self.wanted.remove(&channel);
                }
                _ => assert!(temporary, "subscribe refused with {code}"),
            },
            Sent::Publish { payload } => {
                let asked = stage.scenario.channels[stage.log.data(payload).0].asked_about;
                let by_hook = asked && matches!(code, 100 | 1234);
                assert!(matches!(code, 103 | 106 | 111) || by_hook, "publish refused with {code}");
                stage.log.refused(payload);
            }
            Sent::History { .. } => {
                assert!(matches!(code, 103 | 106 | 107 | 108 | 112), "history refused with {code}")
            }
            Sent::Presence | Sent::PresenceStats => {
                assert!(matches!(code, 103 | 108), "presence refused with {code}");
            }
            Sent::SubRefresh { .. } => assert!(matches!(code, 103 | 109), "sub_refresh refused with {code}"),
            Sent::Rpc { .. } => assert!(matches!(code, 100 | 108 | 1234), "call refused with {code}"),
            Sent::Hopeless { code: expected } => assert_eq!(code, expected),
            Sent::Unfilterable => {
                assert!(matches!(code, 103 | 105 | 106 | 107), "a filter refused with {code}");
                stage.coverage.add("filter_refused", (code == 107).into());
            }
            Sent::Refresh => assert_eq!(code, 109),
            Sent::Unsubscribe { .. } | Sent::Ping => panic!("refused with {code}"),
        }
    }

    fn handle_push(&mut self, push: PushBody<'_>, stage: &mut Stage) {
        if let Some(lifetime) = push.refresh {
            assert!(push.channel.is_empty());
            self.expires = ends(lifetime.expires, lifetime.ttl, stage);
            return;
        }
        if let Some(message) = push.message {
            let number = message.data.get().strip_prefix(r#"{"m":"#).and_then(|rest| rest.strip_suffix('}'));
            let number = number.and_then(|number| number.parse().ok()).expect("a message of the backend's");
            assert!(self.news.insert(number), "a message came twice");
            stage.news.push((number, self.who()));
            return;
        }
        if let Some(end) = push.disconnect {
            assert!(!self.is_websocket(), "its end is told in a Close frame");
            return self.handle_close(end.code, stage);
        }
        let channel = stage.channel(push.channel);
        if let Some(publication) = push.r#pub {
            let Some(sub) = self.subs.get_mut(&channel) else {
                panic!("a publication of {}, to which nobody here is subscribed", push.channel);
            };
            let before = sub.follower.skipped;
            sub.follower.pushed(channel, publication.offset, publication.data.get(), &mut stage.log);
            stage.coverage.add("latest_skipped", sub.follower.skipped - before);
            if let (true, Some(epoch), 1..) = (sub.recoverable, sub.follower.epoch, publication.offset) {
                self.kept.insert(channel, (publication.offset, epoch));
            }
        } else if push.join.is_some() || push.leave.is_some() {
            let joined = push.join.is_some();
            let Some(sub) = self.subs.get_mut(&channel) else {
                panic!("a notice of {} without a subscription", push.channel);
            };
            assert!(sub.join_leaves, "a notice of {} that was not asked for", push.channel);
            let who = push.join.or(push.leave).expect("one of them is there").info.client;
            if let Some(present) = &mut sub.present {
                let before = present.insert(who.clone(), joined);
                assert_ne!(before, Some(joined), "{who} joins or leaves {} twice", push.channel);
            }
        } else if let Some(body) = push.subscribe {
            assert!(
                self.subs.get(&channel).is_none_or(|sub| sub.uncertain),
                "subscribed to {} once more",
                push.channel
            );
            stage.coverage.count("subscribed_by_server");
            assert!(!self.cannot_read(channel, stage), "subscribed to what it cannot read");
            // Of the backend's order, or of a token that the client has shown once more: that imposes nothing.
            let imposed = stage.scenario.channels[channel].imposed.clone().filter(|_| body.data.is_some());
            let by = By::Server { imposed: imposed.is_some() };
            let audience = Audience::of(&self.who(), imposed);
            let sub = begin(channel, &body, None, None, by, audience, stage);
            self.subscribed(channel, sub);
        } else if let Some(why) = push.unsubscribe {
            match why.code {
                2000 => {
                    stage.coverage.count("unsubscribed_by_server");
                    self.wanted.remove(&channel);
                }
                2500 => {
                    assert_eq!(stage.scenario.channels[channel].options.channel.gap, GapPolicy::Tell);
                    assert!(
                        self.subs.get(&channel).is_some_and(|sub| !sub.server_side),
                        "told of a gap in {} without a subscription of its own",
                        push.channel
                    );
                    stage.coverage.count("gap_told");
                    self.wanted.insert(channel);
                }
                2501 => stage.coverage.count("subscription_expired"),
                other => panic!("unsubscribed with {other}"),
            }
            self.end_subscription(channel);
            for (_, sent) in self.sent.values_mut() {
                if let Sent::Subscribe(subscribing) = sent
                    && subscribing.channel == channel
                {
                    subscribing.uncertain = true;
                }
            }
        } else {
            panic!("an empty push");
        }
    }

    fn subscribed(&mut self, channel: ChannelNo, sub: Subscription) {
        if let (true, Some(epoch), Some(last)) = (sub.recoverable, sub.follower.epoch, sub.follower.last) {
            self.kept.insert(channel, (last, epoch));
        } else {
            self.kept.remove(&channel);
        }
        if let Some(before) = self.subs.insert(channel, sub) {
            assert!(before.uncertain, "subscribed twice");
        }
    }

    pub(super) fn end_subscription(&mut self, channel: ChannelNo) {
        self.subs.remove(&channel);
        self.granted.remove(&channel);
    }
}

/// Checks the beginning of a subscription.
fn begin(
    channel: ChannelNo,
    body: &SubscribeBody<'_>,
    asked: Option<(u64, u64)>,
    floor: Option<Place>,
    by: By,
    audience: Audience,
    stage: &mut Stage,
) -> Subscription {
    let epoch = body.epoch.map(|epoch| u64::from_str_radix(epoch, 16).expect("an epoch"));
    assert_eq!(
        body.positioned || body.recoverable,
        epoch.is_some(),
        "a position without an epoch, or the reverse"
    );
    assert!(!body.was_recovering || asked.is_some(), "a recovery that nobody asked for");
    let last = if body.recovered {
        let (offset, asked_epoch) = asked.expect("a recovery that nobody asked for");
        let epoch = epoch.expect("what is recovered has an epoch");
        assert_eq!(epoch, asked_epoch, "recovered in another life than asked");
        let list: Vec<(u64, &str)> =
            body.publications.iter().map(|entry| (entry.offset, entry.data.get())).collect();
        stage.coverage.count("recovered");
        if list.is_empty() && body.offset > offset {
            // Nothing of what it missed is for it: it goes on from the end.
            stage.log.passed_over(channel, Some(epoch), offset + 1..=body.offset, &audience);
            stage.coverage.count("recovered_past_what_is_not_for_it");
        } else {
            assert_eq!(body.offset, offset, "recovered from another place than asked");
        }
        Some(unbroken(&mut stage.log, channel, epoch, body.offset, &list, &audience))
    } else {
        if body.was_recovering {
            stage.coverage.count("not_recovered");
        }
        assert!(body.publications.is_empty(), "publications without a recovery");
        epoch.map(|_| body.offset)
    };
    if let (Some(epoch), Some(last), Some(floor)) = (epoch, last, floor)
        && epoch == floor.0
        && last < floor.1
    {
        // What had been answered before it was asked. Where nothing is listed, the position is that of the end.
        let listed = body.recovered && !body.publications.is_empty();
        assert!(listed, "begun at {last}, behind {}", floor.1);
        stage.log.passed_over(channel, Some(epoch), last + 1..=floor.1, &audience);
    }
    let options = &stage.scenario.channels[channel].options;
    let (server_side, asked_notices, imposed) = match by {
        By::Server { imposed } => (true, true, imposed),
        By::Client { join_leaves, imposed } => {
            (false, join_leaves || options.rules.force_push_join_leave, imposed)
        }
    };
    Subscription {
        follower: Follower::new(epoch, last, options.channel.gap, audience),
        imposed,
        began: stage.net.now(),
        server_side,
        recoverable: body.recoverable,
        join_leaves: options.channel.join_leave && asked_notices,
        // Notices are not in the log: who falls behind in a channel with history loses some.
        present: (!options.channel.keeps_history()).then(BTreeMap::new),
        expires: ends(body.expires, body.ttl, stage),
        uncertain: false,
    }
}

/// Who asked for a subscription.
enum By {
    Server { imposed: bool },
    Client { join_leaves: bool, imposed: bool },
}

/// The end of a lifetime that has been told just now.
fn ends(expires: bool, ttl_s: u32, stage: &Stage) -> Option<Time> {
    assert_eq!(expires, ttl_s > 0, "a lifetime without an end, or an end without a lifetime");
    expires.then(|| stage.net.now() + Duration::from_secs(ttl_s.into()))
}

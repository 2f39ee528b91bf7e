//! A scripted session: commands in, effects and frames out, answers of the backend in between.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::base::bytes::Bytes;
use crate::base::ids::{ChannelName, ClientId};
use crate::base::publication::Missed;
use crate::proto::centrifuge::{Format, ReplyBatch, decode_frame};
use crate::proto::wire::Wire;
use crate::record::{self, PeerRecord, PeerState};
use crate::session::commands::CommandProgress;
use crate::session::context::{Rights, SessionEnvironment, SubscribeEffect, WantedHooks};
use crate::session::hook_call::{Cancel, PublishAnswer, Waiting};
use crate::session::joins::{JoinAnswer, JoinVerdict};
use crate::session::permissions::{Deed, Grantee, Permissions};
use crate::session::record::tests::peer;
use crate::session::token::{ConnectToken, SubscribeGrant, TokenBasis, TokenOptions, Verifier, sign_connect};
use crate::session::{HELD_BYTES_MAX, JoinTerms, UNDER_WAY_MAX};

#[path = "builtin_tests.rs"]
mod builtin;
#[path = "expiry_tests.rs"]
mod expiry;
#[path = "held_tests.rs"]
mod held;
#[path = "refresh_tests.rs"]
mod refresh;

const NOW_S: u64 = 1_700_000_000;

/// What a session is surrounded by: hooks for everything, no tokens.
struct Around {
    hooks: WantedHooks,
    anonymous: bool,
    verifier: Option<Verifier>,
    /// Users have personal channels.
    personal: bool,
    headers: Vec<Box<str>>,
    /// Channels that have a number: it is their place.
    channels: Vec<&'static str>,
}

impl SessionEnvironment for Around {
    fn personal_channel(&self, user: &str) -> Option<ChannelName> {
        self.personal.then(|| format!("#{user}").into())
    }

    fn rights(&self, channel: &str) -> Result<Rights, ErrorCode> {
        let hooked = !channel.starts_with("free");
        let open = channel.starts_with("free") || channel.starts_with("both");
        Ok(Rights {
            user_limited: channel.contains('#'),
            permissions: Permissions::default()
                .with(Deed::Publish, Grantee::Subscriber, channel.contains('#'))
                .with(Deed::Subscribe, Grantee::Client, open)
                .with(Deed::Publish, Grantee::Client, open)
                .settled(true),
            recovery: true,
            keeps_history: true,
            cursors: true,
            positioning: true,
            subscribe_hook: hooked,
            sub_refresh_hook: hooked,
            publish_hook: hooked,
            ..Rights::default()
        })
    }

    fn find(&self, channel: &str) -> Option<ChannelIndex> {
        self.channels.iter().position(|known| *known == channel).map(|at| at as ChannelIndex)
    }

    fn verifier(&self) -> Option<&Verifier> {
        self.verifier.as_ref()
    }

    fn allows_anonymous(&self) -> bool {
        self.anonymous
    }

    fn limits_users(&self) -> bool {
        false
    }

    fn channels_max(&self) -> usize {
        4
    }

    fn name(&self, channel: ChannelIndex) -> ChannelName {
        self.channels[channel as usize].into()
    }

    fn hooks(&self) -> WantedHooks {
        self.hooks
    }

    fn emulated_headers(&self) -> &[Box<str>] {
        &self.headers
    }
}

struct Stage {
    around: Around,
    session: Session,
    unix_s: u64,
    /// Numbers hook calls, as the shard does.
    asked: u32,
    matters: Vec<HookRequest>,
    effects: Vec<Effect>,
    heard: String,
    /// The client's socket takes nothing.
    blocked: bool,
    /// What is left of the loop's turn.
    turn: u16,
}

/// Counts what is cancelled by being dropped.
struct Handle(Arc<AtomicUsize>);

impl Cancel for Handle {
    fn cancel(self: Box<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Stage {
    fn new() -> Stage {
        Stage {
            around: Around {
                hooks: WantedHooks { connect: true, refresh: true, rpc: true },
                anonymous: false,
                verifier: None,
                personal: false,
                headers: vec!["cookie".into()],
                channels: vec!["a", "b", "free", "both", "for#bob"],
            },
            session: Session::new(Wire::default(), None),
            unix_s: NOW_S,
            asked: 0,
            matters: Vec::new(),
            effects: Vec::new(),
            heard: String::new(),
            blocked: false,
            turn: u16::MAX,
        }
    }

    /// A client that the backend let in.
    fn connected(answer: ConnectAnswer) -> Stage {
        let mut stage = Stage::new();
        stage.say(r#"{"id":1,"connect":{}}"#).unwrap();
        stage.answer(Ok(Answer::Connect(Box::new(answer)))).unwrap();
        assert!(stage.session.is_connected(), "{}", stage.heard);
        stage.heard.clear();
        stage.effects.clear();
        stage.matters.clear();
        stage
    }

    fn run<T>(&mut self, step: impl FnOnce(&mut Session, &mut Context<'_>) -> T) -> T {
        let (mut text, mut effects) = (Vec::new(), Vec::new());
        let mut cx = Context {
            environment: &self.around,
            client: ClientId(7),
            unix_s: self.unix_s,
            version: "test",
            ping_s: 25,
            carrier: self.session.wire().carrier,
            emulation: None,
            ask_again_s: 5,
            allowance: u32::MAX,
            turn: self.turn,
            blocked: false,
            out: ReplyBatch::new(&mut text, Format::Json),
            effects: &mut effects,
        };
        let done = step(&mut self.session, &mut cx);
        self.turn = cx.turn;
        if !text.is_empty() {
            self.heard.push_str(std::str::from_utf8(&text).unwrap());
            self.heard.push('\n');
        }
        for effect in effects {
            match effect {
                Effect::CallHook(hook_request) => {
                    self.matters.push(hook_request);
                    self.asked += 1;
                    self.session.set_waiting(self.asked, None, Time::NEVER);
                }
                Effect::Resume => self.resume(),
                other => self.effects.push(other),
            }
        }
        self.move_to_another_process();
        done
    }

    /// After every step of every test here: by way of bytes, and by numbers that are others.
    fn move_to_another_process(&mut self) {
        let now = Time(1 << 40);
        let name = |channel: ChannelIndex| {
            self.around.channels.get(channel as usize).copied().unwrap_or("gone").into()
        };
        let moved = self.session.to_record(&name, now);
        let mut bytes = Vec::new();
        record::write(&peer(PeerState::Client(moved.clone())), &mut bytes).unwrap();
        let PeerState::Client(read) = record::read::<PeerRecord>(&bytes).unwrap().state else {
            panic!("no client")
        };
        let mut subs = self.session.subs().iter();
        let mut place_of = |_: &record::SubRecord| {
            let sub = subs.next().unwrap();
            Ok((sub.channel(), sub.place().unwrap_or(0)))
        };
        let session = Session::from_record(&read, &mut place_of, now).unwrap();
        assert_eq!(session.to_record(&name, now), moved);
        assert_eq!(session.subs(), self.session.subs());
        assert_eq!(session.held_bytes(), self.session.held_bytes());
        self.session = session;
    }

    fn say(&mut self, frame: &str) -> Result<(), Disconnect> {
        self.take(frame, false).map(drop)
    }

    fn take(&mut self, frame: &str, resumed: bool) -> Result<CommandProgress, Disconnect> {
        let mut commands = decode_frame(Format::Json, frame.as_bytes());
        let blocked = self.blocked;
        loop {
            let progress = self.run(|session, cx| {
                cx.blocked = blocked;
                session.handle_commands(&mut commands, resumed, cx)
            })?;
            if progress != CommandProgress::More {
                return Ok(progress);
            }
        }
    }

    fn resume(&mut self) {
        while let Some(command) = self.session.next_held() {
            let command = std::str::from_utf8(&command).unwrap();
            if self.take(command, true).unwrap() == CommandProgress::Held {
                return;
            }
        }
    }

    /// Answers the hook call that is out.
    fn answer(&mut self, outcome: Result<Answer, Denied>) -> Result<bool, Disconnect> {
        let number = self.asked;
        self.run(|session, cx| session.handle_answer(number, outcome, cx))
    }

    /// Carries out the last join as the shard and the channel's owner would.
    fn join(&mut self) {
        let Some(Effect::Subscribe(subscribe)) = self.effects.pop() else { panic!("no join was asked for") };
        let index = self.around.find(&subscribe.channel).expect("the channel has a number");
        self.session.join_asked(index, 1, &subscribe);
        let SubscribeEffect { id, flags, since, data, channel, .. } = subscribe;
        let position = crate::base::ids::Position {
            offset: crate::base::ids::Offset(3),
            epoch: crate::base::ids::Epoch(9),
        };
        let answer = JoinAnswer {
            terms: JoinTerms { number: 1, id, flags, data, ..JoinTerms::default() },
            since,
            outcome: Ok((position, Missed::NotAsked)),
            cursors: None,
        };
        let verdict = self.run(|session, cx| session.handle_joined(index, &channel, answer, cx));
        assert!(matches!(verdict, Ok(JoinVerdict::Subscribe { .. })));
        self.session.set_place(index, 0);
    }

    fn timer(&mut self) {
        self.run(|session, cx| session.ask_what_is_due(cx));
    }
}

/// A subscription as the shard asks the channel's owner for it: `flags` of [`Sub`](crate::session::Sub).
fn join_of(channel: &str, flags: u32, expire_at_s: u64) -> SubscribeEffect {
    SubscribeEffect {
        id: 0,
        channel: channel.into(),
        flags,
        since: None,
        reject_unrecovered: false,
        chan_info: None,
        expire_at_s,
        renewal: Renewal::Token,
        data: None,
        filters: None,
        deliver_every: Default::default(),
    }
}

fn granted(expire_at_s: u64) -> Result<Answer, Denied> {
    let grant = SubscribeGrant { data: Some(Bytes::from_static(b"[1]")), ..SubscribeGrant::default() };
    Ok(Answer::Subscribe(Box::new(Granted { grant, expire_at_s })))
}

fn error(temporary: bool) -> Result<Answer, Denied> {
    Err(Denied::Error { code: 1234, message: "not \"you\"".into(), temporary })
}

const DOWN: Result<Answer, Denied> = Err(Denied::Unavailable { let_in: false });
const LET_IN: Result<Answer, Denied> = Err(Denied::Unavailable { let_in: true });

#[test]
fn a_connect_waits_for_the_backend_and_what_came_along_waits_in_order() {
    let mut stage = Stage::new();
    let frame = r#"{"id":1,"connect":{"data":{"k":1},"name":"js","version":"5","subs":{"a":{"recover":true,"offset":4,"epoch":"00000009"}}}}
{"id":2,"subscribe":{"channel":"free"}}{"id":3,"rpc":{"method":"m","data":2}}"#;
    stage.say(frame).unwrap();
    let [HookRequest::Connect { data: Some(data), name, version, channels }] = &stage.matters[..] else {
        panic!("{:?}", stage.matters)
    };
    assert_eq!((&data[..], &**name, &**version), (&br#"{"k":1}"#[..], "js", "5"));
    assert_eq!(channels, &[std::sync::Arc::<str>::from("a")]);
    assert_eq!((stage.heard.as_str(), stage.effects.len()), ("", 0));

    // In another frame, and behind it.
    stage.say(r#"{"id":4,"publish":{"channel":"free","data":5}}"#).unwrap();
    let answer = ConnectAnswer {
        user: "ann".into(),
        info: Some(Bytes::from_static(b"{}")),
        data: Some(Bytes::from_static(b"\"hello\"")),
        meta: Some(Bytes::from_static(b"{\"m\":1}")),
        subs: vec![("a".into(), Granted::default())],
        ..ConnectAnswer::default()
    };
    assert_eq!(stage.answer(Ok(Answer::Connect(Box::new(answer)))), Ok(true));
    let Some(Effect::Subscribe(join)) = stage.effects.last() else { panic!("{:?}", stage.effects) };
    assert!(join.since.is_some(), "what the client asks to recover is recovered");
    assert_eq!(stage.heard, "", "connected is who has its subscriptions");
    stage.join();
    let first = stage.heard.lines().next().unwrap().to_string();
    assert!(first.contains(r#""data":"hello""#) && first.contains(r#""subs":{"a""#), "{first}");
    assert!(!first.contains("ttl"), "{first}");
    assert_eq!(stage.session.user().map(|user| &**user), Some("ann"));
    assert_eq!(stage.session.meta().map(|meta| &meta[..]), Some(&br#"{"m":1}"#[..]));
    // Held commands went on up to the next hook call.
    assert!(matches!(stage.effects.last(), Some(Effect::Subscribe(join)) if &*join.channel == "free"));
    assert!(matches!(stage.matters.last(), Some(HookRequest::Rpc { method, .. }) if &**method == "m"));
    stage.answer(Ok(Answer::Rpc { data: Some(Bytes::from_static(b"6")) })).unwrap();
    assert!(stage.heard.ends_with("{\"id\":3,\"rpc\":{\"data\":6}}\n"), "{}", stage.heard);
    assert!(matches!(stage.effects.last(), Some(Effect::Publish { id: 4, .. })));
    assert!(stage.session.next_held().is_none() && !stage.session.is_waiting());
}

#[test]
fn a_refused_connect_answers_with_the_error_and_ends_with_no_code_of_what_came_along() {
    for (outcome, expected) in [
        (error(true), r#"{"id":1,"error":{"code":1234,"message":"not \"you\"","temporary":true}}"#),
        (error(false), r#"{"id":1,"error":{"code":1234,"message":"not \"you\""}}"#),
        (DOWN, r#"{"id":1,"error":{"code":100,"message":"internal server error","temporary":true}}"#),
        // Nobody is let in who could not be without the hook.
        (LET_IN, r#"{"id":1,"error":{"code":100,"message":"internal server error","temporary":true}}"#),
        (
            Ok(Answer::Connect(Box::new(ConnectAnswer { expire_at_s: NOW_S, ..ConnectAnswer::default() }))),
            r#"{"id":1,"error":{"code":100,"message":"internal server error","temporary":true}}"#,
        ),
    ] {
        let mut stage = Stage::new();
        stage.say("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"free\"}}").unwrap();
        assert_eq!(stage.answer(outcome), Ok(true));
        assert_eq!(stage.heard.trim(), expected);
        stage.say(r#"{"id":3,"subscribe":{"channel":"free"}}"#).expect("it is not listened to any more");
        assert!(!stage.session.is_connected() && !stage.session.is_waiting());
        // Another try on the same connection is one.
        stage.say(r#"{"id":4,"connect":{}}"#).unwrap();
        assert_eq!(stage.matters.len(), 2);
    }
    let mut stage = Stage::new();
    stage.say(r#"{"id":1,"connect":{}}"#).unwrap();
    let disconnect = Disconnect { code: 4501, reason: "banned".into() };
    assert_eq!(stage.answer(Err(Denied::Disconnect(disconnect.clone()))), Err(disconnect));
}

#[test]
fn who_may_be_anonymous_is_let_in_when_the_policy_says_so() {
    let mut stage = Stage::new();
    stage.around.anonymous = true;
    stage.say(r#"{"id":1,"connect":{}}"#).unwrap();
    stage.answer(LET_IN).unwrap();
    assert!(stage.session.is_connected() && stage.session.user().is_none());
}

#[test]
fn a_subscription_is_what_the_backend_grants() {
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.say(r#"{"id":2,"subscribe":{"channel":"a","data":{"q":1},"recoverable":true}}"#).unwrap();
    assert!(
        matches!(&stage.matters[..], [HookRequest::Subscribe { data: Some(data), .. }] if data == r#"{"q":1}"#)
    );
    stage.answer(granted(NOW_S + 60)).unwrap();
    stage.join();
    assert!(stage.heard.contains(r#""data":[1]"#) && stage.heard.contains(r#""recoverable":true"#));
    assert!(!stage.heard.contains("ttl"), "the client has no token to refresh: {}", stage.heard);
    assert_eq!(stage.session.next_ask_s(), Some(NOW_S + 60));
}

#[test]
fn a_refused_subscription_leaves_the_connection_alone() {
    for (channel, outcome, expected) in [
        ("a", error(false), "1234"),
        ("a", DOWN, "100"),
        ("a", LET_IN, "103"),
        ("a", granted(NOW_S), "100"),
        ("both", DOWN, "100"),
    ] {
        let mut stage = Stage::connected(ConnectAnswer::default());
        stage.say(&format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#)).unwrap();
        stage.answer(outcome).unwrap();
        assert!(
            stage.heard.starts_with(&format!(r#"{{"id":2,"error":{{"code":{expected},"#)),
            "{}",
            stage.heard
        );
        assert!(!stage.effects.iter().any(|effect| matches!(effect, Effect::Subscribe(_))));
        stage.say(r#"{"id":3,"subscribe":{"channel":"free"}}"#).unwrap();
        assert!(matches!(stage.effects.last(), Some(Effect::Subscribe(_))));
    }
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.say(r#"{"id":2,"subscribe":{"channel":"both"}}"#).unwrap();
    stage.answer(LET_IN).unwrap();
    assert!(matches!(stage.effects.last(), Some(Effect::Subscribe(_))), "without the hook it may");
}

/// The server's own doing in the meantime is newer than the answer.
#[test]
fn a_subscription_that_the_server_ended_or_made_meanwhile_does_not_begin_by_an_answer() {
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.say(r#"{"id":2,"subscribe":{"channel":"a"}}"#).unwrap();
    stage.session.revoke("b");
    stage.session.revoke("a");
    stage.answer(granted(0)).unwrap();
    assert!(stage.heard.contains(r#""code":103"#), "{}", stage.heard);

    stage.say(r#"{"id":3,"subscribe":{"channel":"a"}}"#).unwrap();
    let by_server = join_of("a", crate::session::Sub::SERVER_SIDE, 0);
    stage.session.join_asked(0, 5, &by_server);
    stage.answer(granted(0)).unwrap();
    assert!(stage.heard.contains(r#"{"id":3,"error":{"code":105,"#), "{}", stage.heard);
}

#[test]
fn a_publication_is_what_the_backend_makes_of_it() {
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.say(r#"{"id":2,"publish":{"channel":"a","data":{"x":1}}}"#).unwrap();
    assert!(matches!(&stage.matters[..], [HookRequest::Publish { data, .. }] if data == r#"{"x":1}"#));
    let changes = PublishAnswer {
        data: Some(Bytes::from_static(b"2")),
        skip_history: true,
        tags: vec![("t".into(), "v".into())],
        ..PublishAnswer::default()
    };
    stage.answer(Ok(Answer::Publish(changes))).unwrap();
    let Some(Effect::Publish { id: 2, data, changes: Some(changes), .. }) = stage.effects.last() else {
        panic!("{:?}", stage.effects)
    };
    assert_eq!((&data[..], changes.skip_history, changes.tags.len()), (&b"2"[..], true, 1));
    assert_eq!(changes.data, None, "it stands in one place");

    for (channel, outcome, code) in [("a", error(false), "1234"), ("a", DOWN, "100"), ("a", LET_IN, "103")] {
        let mut stage = Stage::connected(ConnectAnswer::default());
        stage.say(&format!(r#"{{"id":2,"publish":{{"channel":"{channel}","data":1}}}}"#)).unwrap();
        stage.answer(outcome).unwrap();
        assert!(stage.heard.contains(&format!(r#""code":{code}"#)), "{}", stage.heard);
        assert!(!stage.effects.iter().any(|effect| matches!(effect, Effect::Publish { .. })));
    }
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.say(r#"{"id":2,"publish":{"channel":"both","data":1}}"#).unwrap();
    stage.answer(LET_IN).unwrap();
    assert!(matches!(stage.effects.last(), Some(Effect::Publish { changes: None, .. })));
}

#[test]
fn a_call_without_a_hook_is_refused_and_one_without_an_answer_may_be_tried_again() {
    for (outcome, code) in [(error(true), "1234"), (DOWN, "100"), (LET_IN, "108")] {
        let mut stage = Stage::connected(ConnectAnswer::default());
        stage.say(r#"{"id":2,"rpc":{"method":"m"}}"#).unwrap();
        assert!(matches!(&stage.matters[..], [HookRequest::Rpc { data: None, .. }]));
        stage.answer(outcome).unwrap();
        assert!(stage.heard.contains(&format!(r#""code":{code}"#)), "{}", stage.heard);
    }
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.around.hooks.rpc = false;
    stage.say(r#"{"id":2,"rpc":{"method":"m"}}"#).unwrap();
    assert!(stage.heard.contains(r#""code":108"#) && stage.matters.is_empty());
}

/// Each held command asks: they are asked one after the other, in their order.
#[test]
fn one_hook_call_at_a_time() {
    let mut stage = Stage::connected(ConnectAnswer::default());
    let frame: Vec<String> =
        (2..1002).map(|id| format!(r#"{{"id":{id},"rpc":{{"method":"{id}"}}}}"#)).collect();
    stage.say(&frame.join("\n")).unwrap();
    for id in 2..1002 {
        assert!(
            matches!(stage.matters.last(), Some(HookRequest::Rpc { method, .. }) if **method == *id.to_string())
        );
        assert_eq!(stage.matters.len(), id - 1);
        assert_eq!(stage.answer(Ok(Answer::Rpc { data: None })), Ok(true));
    }
    assert_eq!(stage.heard.lines().count(), 1000);
    assert_eq!(stage.answer(Ok(Answer::Rpc { data: None })), Ok(false), "that one is answered");
}

#[test]
fn an_answer_to_another_hook_call_is_not_taken() {
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.say(r#"{"id":2,"rpc":{"method":"m"}}"#).unwrap();
    let number = stage.asked - 1;
    let outcome = Ok(Answer::Rpc { data: None });
    assert_eq!(stage.run(|session, cx| session.handle_answer(number, outcome, cx)), Ok(false));
    assert!(stage.session.is_waiting() && stage.heard.is_empty());
}

/// By a process that was not asked: what only reads is asked there again, what may have changed something is not.
#[test]
fn a_hook_call_under_way_is_put_once_more_where_that_is_safe() {
    for (command, again) in [
        (r#"{"id":2,"subscribe":{"channel":"room"}}"#, true),
        (r#"{"id":2,"rpc":{"method":"m","data":{"a":1}}}"#, false),
        (r#"{"id":2,"publish":{"channel":"room","data":{}}}"#, false),
    ] {
        let mut stage = Stage::connected(ConnectAnswer::default());
        stage.say(command).unwrap();
        let before = format!("{:?}", stage.matters);
        stage.matters.clear();
        stage.run(|session, cx| session.ask_once_more(cx)).unwrap();
        match again {
            true => assert_eq!((format!("{:?}", stage.matters), &*stage.heard), (before, "")),
            false => {
                assert!(stage.matters.is_empty() && !stage.session.is_waiting(), "{command}");
                assert!(stage.heard.contains(r#""id":2,"error":{"code":100"#), "{}", stage.heard);
            }
        }
    }
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.run(|session, cx| session.ask_once_more(cx)).unwrap();
    assert!(stage.matters.is_empty() && stage.heard.is_empty(), "nothing was under way");
}

#[test]
fn a_session_that_goes_away_cancels_its_hook_call() {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.say(r#"{"id":2,"rpc":{"method":"m"}}"#).unwrap();
    let waiting = Waiting::new(Handle(Arc::clone(&cancelled)));
    stage.session.set_waiting(9, Some(waiting), Time::NEVER);
    assert_eq!(cancelled.load(Ordering::Relaxed), 0);
    drop(stage.session);
    assert_eq!(cancelled.load(Ordering::Relaxed), 1);
}

#[test]
fn emulated_headers_are_those_that_the_request_lacks() {
    let allowed: Vec<Box<str>> = vec!["cookie".into(), "x-real-ip".into()];
    let take = |session: &mut Session, json: &str| {
        let frame = format!(r#"{{"id":1,"connect":{{"headers":{json}}}}}"#);
        let command = decode_frame(Format::Json, frame.as_bytes()).next().unwrap().unwrap();
        let crate::proto::centrifuge::Method::Connect(connect) = command.method else { panic!() };
        session.take_emulated(connect.headers, &allowed)
    };
    let mut session =
        Session::new(Wire::default(), Some(vec![("x-real-ip".into(), b"1.2.3.4"[..].into())].into()));
    take(&mut session, r#"{"Cookie":"a=\u0062","X-Real-IP":"6.6.6.6","Host":"evil"}"#).unwrap();
    let kept: Vec<_> = session.headers().unwrap().iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(kept, [("x-real-ip", &b"1.2.3.4"[..]), ("cookie", b"a=b")]);

    let long = format!(r#"{{"cookie":"{}"}}"#, "x".repeat(HEADERS_BYTES_MAX));
    for bad in [r#"{"cookie":"a\r\nHost: evil"}"#, r#"{"cookie":1}"#, &long] {
        let mut session = Session::new(Wire::default(), None);
        assert_eq!(take(&mut session, bad), Err(ErrorCode::BadRequest), "{bad}");
        assert!(session.headers().is_none());
    }
    let mut session = Session::new(Wire::default(), None);
    take(&mut session, r#"{"other":"x"}"#).unwrap();
    assert!(session.extras.is_none(), "nothing is kept of what nobody gets to see");
}

#[test]
fn a_session_that_asks_nothing_costs_what_it_did() {
    assert!(size_of::<crate::session::state::Extras>() <= 80);
    assert!(size_of::<Session>() <= 48, "{}", size_of::<Session>());
}

#[test]
fn whom_the_backend_names_has_a_personal_channel() {
    let mut stage = Stage::new();
    stage.around.personal = true;
    stage.say(r#"{"id":1,"connect":{}}"#).unwrap();
    let answer = ConnectAnswer { user: "ann".into(), ..ConnectAnswer::default() };
    stage.answer(Ok(Answer::Connect(Box::new(answer)))).unwrap();
    assert!(matches!(&stage.effects[..], [Effect::Subscribe(own)] if *own.channel == *"#ann"));
}

/// A token is not looked at and the backend is not asked where the channel's name says it: 103 and a subscription.
#[test]
fn a_channel_that_names_its_users_is_decided_by_its_name() {
    let ann = ConnectAnswer { user: "ann".into(), ..ConnectAnswer::default() };
    let mut stage = Stage::connected(ann.clone());
    stage.say(r#"{"id":2,"subscribe":{"channel":"for#ann","token":"rubbish"}}"#).unwrap();
    assert!(matches!(&stage.effects[..], [Effect::Subscribe(own)] if *own.channel == *"for#ann"));

    let mut stage = Stage::connected(ann.clone());
    stage.say(r#"{"id":2,"subscribe":{"channel":"for#bob","token":"rubbish"}}"#).unwrap();
    stage.say(r#"{"id":3,"publish":{"channel":"for#bob","data":1}}"#).unwrap();
    assert_eq!(stage.heard.matches("103").count(), 2, "{}", stage.heard);
    assert!(stage.matters.is_empty() && !stage.session.is_waiting());

    // The server itself may subscribe anybody; what such a one says still has to pass the hook.
    let subs = vec![("for#bob".into(), Granted::default())];
    let mut stage = Stage::new();
    stage.say(r#"{"id":1,"connect":{}}"#).unwrap();
    stage.answer(Ok(Answer::Connect(Box::new(ConnectAnswer { subs, ..ann })))).unwrap();
    stage.join();
    stage.say(r#"{"id":2,"publish":{"channel":"for#bob","data":1}}"#).unwrap();
    assert!(matches!(stage.matters.last(), Some(HookRequest::Publish { .. })), "{}", stage.heard);
}

/// Without a hook in between: who was refused must not get in as somebody unknown by saying it again.
#[test]
fn a_refused_token_of_the_upgrade_is_not_passed_over_by_a_second_connect() {
    let options = TokenOptions { hmac_secret: b"secret".to_vec(), ..TokenOptions::default() };
    let mut stage = Stage::new();
    (stage.around.verifier, stage.around.anonymous) = (Some(Verifier::new(options)), true);
    let basis = TokenBasis { user: "ann", ..TokenBasis::default() };
    let expired = TokenBasis { expires_at_s: Some(NOW_S - 1), ..basis };
    let expired = ConnectToken { basis: expired, ..ConnectToken::default() };
    let shown = sign_connect(b"secret", &expired).unwrap();
    stage.session = Session::new(Wire::default(), None).with_token(Some(shown.into()));
    for _ in 0..2 {
        stage.say(r#"{"id":1,"connect":{}}"#).unwrap();
        assert!(std::mem::take(&mut stage.heard).contains("109"));
    }
    assert!(stage.matters.is_empty() && !stage.session.is_connected());
    let valid = ConnectToken { basis, ..ConnectToken::default() };
    let token = sign_connect(b"secret", &valid).unwrap();
    stage.say(&format!(r#"{{"id":2,"connect":{{"token":"{token}"}}}}"#)).unwrap();
    assert!(stage.session.is_connected() && stage.session.shown().is_none());
}

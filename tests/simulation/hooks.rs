//! What the backend is asked: it answers late, wrongly, with errors, never, or when nobody waits any more.
//!
//! A client that shows no token says in its data what it wants to be, and gets it: the clients check what they get
//! against what they said, so what is granted must be just that.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use trunkline::base::bytes::Bytes;
use trunkline::base::fault::Disconnect;
use trunkline::base::time::Time;
use trunkline::session::hook_call::{
    Answer, Cancel, ConnectAnswer, Denied, Granted, HookCall, HookRequest, PublishAnswer, RefreshAnswer,
    SubRefreshAnswer, Waiting,
};
use trunkline::session::token::SubscribeGrant;
use trunkline::shard::control_request::{BackendReply, Busy};

use crate::scenario::unix_s;
use crate::world::Stage;

/// Longest an answer takes in a rough stretch: longer than a shard's patience.
const SLOW_US: u64 = 1_400_000;
/// And in a calm one.
const QUICK_US: u64 = 40_000;

/// The hook calls of one shard.
#[derive(Default)]
pub struct HookCalls {
    asked: Mutex<Vec<Asked>>,
    taken: AtomicUsize,
    /// Handles that the shard still holds.
    awaited: Arc<AtomicUsize>,
}

struct Asked {
    hook_call: HookCall,
    reply: BackendReply,
    cancelled: Arc<AtomicBool>,
    /// `None` until the backend first looks at it.
    due: Option<Time>,
    answer: Option<Result<Answer, Denied>>,
}

/// What the shard holds while it waits.
struct Handle {
    cancelled: Arc<AtomicBool>,
    awaited: Arc<AtomicUsize>,
}

impl Cancel for Handle {
    fn cancel(self: Box<Self>) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.awaited.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HookCalls {
    pub fn take(&self, hook_call: HookCall, reply: BackendReply) -> Result<Waiting, Busy> {
        assert_eq!(&*hook_call.hook, "hook");
        // An odd stride, so that it is not always the same kind of hook call that finds no room.
        if self.taken.fetch_add(1, Ordering::Relaxed) % 13 == 12 {
            return Err(Busy);
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        self.awaited.fetch_add(1, Ordering::Relaxed);
        let handle = Handle { cancelled: Arc::clone(&cancelled), awaited: Arc::clone(&self.awaited) };
        let asked = Asked { hook_call, reply, cancelled, due: None, answer: None };
        self.asked.lock().expect("one thread").push(asked);
        Ok(Waiting::new(handle))
    }

    /// Hook calls whose answers shards wait for.
    pub fn awaited(&self) -> usize {
        self.awaited.load(Ordering::Relaxed)
    }

    /// Answers what is due, while the inbox has room.
    pub fn answer(&self, has_room: impl Fn() -> bool, stage: &mut Stage) {
        let now = stage.net.now();
        let asked = std::mem::take(&mut *self.asked.lock().expect("one thread"));
        let mut left = Vec::new();
        for mut asked in asked {
            let longest = if stage.calm { QUICK_US } else { SLOW_US };
            let mut delay = || Duration::from_micros(stage.prng.u64(..longest));
            let due = *asked.due.get_or_insert_with(|| now + delay());
            let due = if stage.calm { due.min(now + Duration::from_micros(QUICK_US)) } else { due };
            if asked.cancelled.load(Ordering::Relaxed) {
                stage.coverage.count("hook_call_cancelled");
                // Some hear of it too late.
                if stage.prng.bool() {
                    continue;
                }
            } else if due > now || !has_room() {
                left.push(asked);
                continue;
            } else if !stage.calm && stage.prng.u8(..24) == 0 {
                stage.coverage.count("hook_call_never_answered");
                continue;
            }
            let Asked { hook_call, reply, answer, .. } = &mut asked;
            if answer.is_none() {
                *answer = Some(say(hook_call, stage));
            }
            reply.send(answer);
            if answer.is_some() {
                left.push(asked);
            }
        }
        self.asked.lock().expect("one thread").append(&mut left);
    }
}

/// What the backend says.
fn say(hook_call: &HookCall, stage: &mut Stage) -> Result<Answer, Denied> {
    match &hook_call.hook_request {
        HookRequest::Refresh => stage.coverage.count("refresh_asked"),
        HookRequest::SubRefresh { .. } => stage.coverage.count("sub_refresh_asked"),
        _ => {}
    }
    let data = match &hook_call.hook_request {
        HookRequest::Connect { data: Some(data), .. } => serde_json::from_slice(data).unwrap_or(Value::Null),
        _ => Value::Null,
    };
    let user = data["user"].as_str().unwrap_or_default();
    // Whom it lets in unseen is anonymous.
    let may_be_let_in = user.is_empty();
    if !stage.calm {
        match stage.prng.u8(..20) {
            0 => {
                let temporary = stage.prng.bool();
                return Err(Denied::Error { code: 1234, message: "no".into(), temporary });
            }
            1 => return Err(Denied::Disconnect(Disconnect { code: 4000, reason: "by the backend".into() })),
            2 => return Err(Denied::Unavailable { let_in: false }),
            3 if may_be_let_in => return Err(Denied::Unavailable { let_in: true }),
            _ => {}
        }
    }
    let now_s = unix_s(stage.net.now());
    let expire_at_s = match stage.prng.u8(..3) == 0 && !stage.calm {
        true => now_s + stage.prng.u64(1..4),
        false => 0,
    };
    let expired = !stage.calm && stage.prng.u8(..6) == 0;
    let granted = |channel: &str, expire_at_s| {
        let imposed = &stage.scenario.channels[stage.channel(channel)].imposed;
        let filter = imposed.as_ref().map(|filter| filter.parsed());
        Granted { grant: SubscribeGrant { filter, ..SubscribeGrant::default() }, expire_at_s }
    };
    Ok(match &hook_call.hook_request {
        HookRequest::Connect { .. } => {
            let subs = data["subs"].as_array().into_iter().flatten().filter_map(Value::as_str);
            Answer::Connect(Box::new(ConnectAnswer {
                user: user.to_string(),
                expire_at_s: data["expire_at"].as_u64().unwrap_or(0),
                subs: subs.map(|channel| (channel.into(), granted(channel, 0))).collect(),
                meta: Some(Bytes::from_static(b"{}")),
                ..ConnectAnswer::default()
            }))
        }
        HookRequest::Refresh => {
            Answer::Refresh(RefreshAnswer { expired, expire_at_s, ..RefreshAnswer::default() })
        }
        HookRequest::Subscribe { channel, .. } => Answer::Subscribe(Box::new(granted(channel, expire_at_s))),
        HookRequest::SubRefresh { .. } => {
            Answer::SubRefresh(SubRefreshAnswer { expired, expire_at_s, ..SubRefreshAnswer::default() })
        }
        HookRequest::Publish { data, .. } => {
            let data = stage.prng.bool().then(|| data.clone());
            Answer::Publish(PublishAnswer { data, ..PublishAnswer::default() })
        }
        HookRequest::Rpc { data, .. } => Answer::Rpc { data: data.clone() },
    })
}

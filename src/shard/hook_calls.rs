//! Hook calls of clients to the backend: put to the control plane, awaited, answered, given up.
//!
//! A hook call belongs to one connection and has a number; the answer comes as a shard message and names both. The peer keeps
//! what the control plane gave for it, and drops it when the connection ends: that cancels.

use crate::base::ids::{ConnId, UserName};
use crate::proto::http1::RequestHead;
use crate::session::hook_call::{Answer, Caller, Denied, Headers, HookCall, HookRequest, Waiting};
use crate::shard::control_request::BackendReply;
use crate::shard::control_request::observer::Observation;
use crate::shard::control_request::seen::EndedBy;
use crate::shard::core::Core;
use crate::shard::mailbox::{HookAnswered, ShardMessage};
use crate::shard::timers;

use std::sync::Arc;

impl Core {
    /// Those header fields of a request that the backend gets to see; `None` where there are none to keep.
    pub fn forwarded(&self, slot: u32, head: &RequestHead<'_>) -> Option<Arc<Headers>> {
        let wanted = &self.env.options.forward_headers;
        if wanted.is_empty() {
            return None;
        }
        let mut headers: Vec<(Box<str>, Box<[u8]>)> = Vec::new();
        for wanted in wanted.iter().filter(|name| self.passes_on(slot, name)) {
            let values = head.fields().all(wanted);
            match &**wanted {
                // Several are one string (RFC 9113 section 8.2.3); a backend may look at the first line only.
                "cookie" => {
                    let values: Vec<_> = values.collect();
                    if !values.is_empty() {
                        headers.push((wanted.clone(), values.join(&b"; "[..]).into()));
                    }
                }
                _ => headers.extend(values.map(|value| (wanted.clone(), value.into()))),
            }
        }
        (!headers.is_empty()).then(|| headers.into())
    }

    /// A client's session asks.
    pub fn ask_for_client(&mut self, slot: u32, hook_request: HookRequest) {
        let conn = self.conn_id(slot);
        let client = self.client_id(slot);
        let address = self.client_address(slot);
        let Some(session) = self.links.connections.session(slot) else {
            return;
        };
        let caller = Caller {
            client,
            user: session.user().cloned().unwrap_or_else(|| UserName::from("")),
            transport: session.wire().carrier.transport(),
            format: session.format(),
            meta: session.meta().cloned(),
            headers: session.headers().cloned(),
            certificate: self.links.layers.certificate(slot),
            address,
        };
        self.show(slot, || Observation::HookCall {
            kind: kind_of(&hook_request),
            trace: self.trace_of(slot),
        });
        let (number, waiting) = self.make_hook_call(conn, caller, hook_request);
        let until = self.env.now + self.env.options.hook_call_patience;
        let Some(session) = self.links.connections.session(slot) else {
            return;
        };
        session.set_waiting(number, waiting, until);
        self.set_hook_call_timer(slot);
    }

    /// Makes a hook call. Its answer comes as a shard message in any case but one: see [`crate::shard::ShardOptions::hook_call_patience`].
    pub fn make_hook_call(
        &mut self,
        conn: ConnId,
        caller: Caller,
        hook_request: HookRequest,
    ) -> (u32, Option<Waiting>) {
        self.messages.hook_calls_made = self.messages.hook_calls_made.wrapping_add(1);
        self.env.stats.counters.questions_asked_total += 1;
        let number = self.messages.hook_calls_made;
        let inbox = self.messages.mailer.router().inbox(self.env.id).clone();
        let asked_at = self.env.now;
        let reply = BackendReply::new(move |answer| {
            let Some(outcome) = answer.take() else { return };
            let answered = HookAnswered { conn, number, asked_at, outcome };
            if let Err(ShardMessage::Backend(refused)) =
                inbox.push_control(ShardMessage::Backend(Box::new(answered)))
            {
                *answer = Some(refused.outcome);
            }
        });
        let asked = match (&self.env.control, self.hook_of(&hook_request)) {
            (Some(control), Some(hook)) => {
                control.ask_backend(HookCall { hook, caller, hook_request }, reply).ok()
            }
            _ => None,
        };
        if asked.is_none() {
            // By a message as well: an answer within the hook call would make a frame full of them a stack full of them.
            let outcome = Err(Denied::Unavailable { let_in: false });
            let answered = HookAnswered { conn, number, asked_at, outcome };
            self.messages.mailer.post(self.env.id, ShardMessage::Backend(Box::new(answered)));
        }
        (number, asked)
    }

    fn hook_of(&self, hook_request: &HookRequest) -> Option<Box<str>> {
        let hooks = &self.env.options.hooks;
        let of_channel = |channel: &str| self.env.options.rules.resolve(channel).ok();
        let named = match hook_request {
            HookRequest::Connect { .. } => return hooks.connect.clone(),
            HookRequest::Refresh => return hooks.refresh.clone(),
            HookRequest::Rpc { method, .. } => return hooks.of_call(method).map(Box::from),
            HookRequest::Subscribe { channel, .. } => &of_channel(channel)?.subscribe_hook,
            HookRequest::SubRefresh { channel } => &of_channel(channel)?.sub_refresh_hook,
            HookRequest::Publish { channel, .. } => &of_channel(channel)?.publish_hook,
        };
        named.as_deref().map(Box::from)
    }

    /// The backend has answered, or the control plane for it.
    pub fn handle_backend_answer(&mut self, conn: ConnId, number: u32, outcome: Result<Answer, Denied>) {
        let denied = match &outcome {
            Ok(_) => None,
            Err(Denied::Unavailable { .. }) => Some(false),
            Err(_) => Some(true),
        };
        if self.is_observed()
            && let Some(slot) = self.live(conn)
        {
            let outcome = match denied {
                None => "result",
                Some(true) => "denied",
                Some(false) => "unavailable",
            };
            self.show(slot, || Observation::HookAnswer { outcome });
        }
        let wanted = match self.live(conn) {
            Some(slot) => self.answer_asker(slot, number, outcome),
            None => false,
        };
        let counters = &mut self.env.stats.counters;
        match denied {
            _ if !wanted => counters.questions_dropped_total += 1,
            Some(true) => counters.questions_denied_total += 1,
            Some(false) => counters.questions_unavailable_total += 1,
            None => {}
        }
    }

    /// False when the hook call is not the one that is out.
    fn answer_asker(&mut self, slot: u32, number: u32, outcome: Result<Answer, Denied>) -> bool {
        if self.links.connections.requests(slot).is_some() {
            return self.handle_inquiry_answer(slot, number, outcome);
        }
        match self.with_session(slot, |session, cx| session.handle_answer(number, outcome, cx)) {
            None | Some(Ok(false)) => return false,
            Some(Ok(true)) => {}
            Some(Err(disconnect)) => {
                self.links.ends.blame(slot, EndedBy::Backend);
                self.close(slot, disconnect);
                return true;
            }
        }
        self.set_hook_call_timer(slot);
        true
    }

    /// Sets a client's timer after a hook call was put or answered.
    fn set_hook_call_timer(&mut self, slot: u32) {
        let Some(session) = self.links.connections.session(slot) else { return };
        if session.is_connected() {
            return self.set_peer_timer(slot);
        }
        match session.awaits() {
            // The time in which a client is to connect does not run while it waits for the backend.
            Some((_, until)) => {
                self.links.wheel.set(&mut self.links.connections, slot, timers::tick_after(until, 0));
            }
            None => self.timer_in(slot, self.env.options.connect_timeout),
        }
    }

    /// Gives up on a hook call whose time is over; asks those whose time has come.
    pub fn handle_hook_call_timer(&mut self, slot: u32) {
        let now = self.env.now;
        let Some(session) = self.links.connections.session(slot) else {
            return;
        };
        match session.awaits() {
            Some((number, until)) if until <= now => {
                let conn = self.conn_id(slot);
                self.handle_backend_answer(conn, number, Err(Denied::Unavailable { let_in: false }));
            }
            Some(_) => self.set_hook_call_timer(slot),
            None => {
                if session.next_ask_s().is_some_and(|at| at <= self.env.wall_ms / 1000) {
                    self.with_session(slot, |session, cx| session.ask_what_is_due(cx));
                }
            }
        }
    }
}

/// The name that observers get.
fn kind_of(hook_request: &HookRequest) -> &'static str {
    match hook_request {
        HookRequest::Connect { .. } => "connect",
        HookRequest::Refresh => "refresh",
        HookRequest::Rpc { .. } => "rpc",
        HookRequest::Subscribe { .. } => "subscribe",
        HookRequest::SubRefresh { .. } => "sub_refresh",
        HookRequest::Publish { .. } => "publish",
    }
}

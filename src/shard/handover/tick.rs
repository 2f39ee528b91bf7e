//! The tick of a shard that is being handed over, or takes over: the ordinary one, with less in it.

use std::collections::VecDeque;
use std::sync::mpsc::TrySendError;
use std::time::Duration;

use crate::driver::Driver;
use crate::shard::control_request::ControlRequest;
use crate::shard::core::Core;
use crate::shard::handover::agreement::{Agreement, AgreementMark};
use crate::shard::handover::order::{Order, Outlet, Said};
use crate::shard::handover::state::{ExportStep, Frozen, HandoverStage, Quieting};
use crate::shard::mailbox::{ShardInbox, ShardMessage};
use crate::shard::{Shard, Tick};

/// How long a tick waits for something to happen: other shards and the node are answered within it.
const PAUSE: Duration = Duration::from_millis(1);
/// The same of one that an order ends, which wakes it: many shards that looked each millisecond would take a cpu from those
/// that have something to do.
const ORDERS_PAUSE: Duration = Duration::from_millis(50);
/// How long one tick exports: others wait for the cpu.
const SLICE: Duration = Duration::from_millis(5);
/// How long requests that are under way are waited for: most are answered within a few milliseconds, on a machine that has
/// too much to do within some hundred. Others are left behind.
const REQUESTS_PATIENCE: Duration = Duration::from_millis(500);
/// How long a store or an engine may take for what is under way there: a disk under load takes a second. Longer, and the
/// upgrade fails.
const OUTSIDE_PATIENCE: Duration = Duration::from_secs(5);
/// Messages taken in one tick.
const MESSAGES_PER_TICK: usize = 4096;

impl<D: Driver> Shard<D> {
    /// One turn while [`Core::handover`] is under way.
    pub(in crate::shard) fn tick_in_handover(&mut self) -> std::io::Result<Tick> {
        let timeout = match () {
            () if self.core.has_handover_work() => Duration::ZERO,
            () if self.core.awaits_orders() && self.inbox.about_to_sleep() => ORDERS_PAUSE,
            () => PAUSE,
        };
        let waited = self.driver.wait(&mut self.events, Some(timeout));
        self.inbox.awake();
        waited?;
        let now = self.driver.now();
        match self.core.handover.stage.as_deref() {
            Some(HandoverStage::Quieting(_)) => {
                self.core.begin(now);
                self.tick_quieting();
            }
            Some(HandoverStage::Frozen(_)) => {
                self.core.env.set_now(now);
                // The last mark may still wait for room where it is awaited.
                self.core.messages.mailer.retry();
                self.core.keep_control_messages(&self.inbox);
                self.say_parcels();
            }
            Some(HandoverStage::Adopting(_)) | None => {
                // Nothing is read yet: sockets have gone that came ahead and were closed.
                self.events.clear();
                self.core.env.set_now(now);
                self.core.keep_control_messages(&self.inbox);
                if self.core.env.ending.is_some() {
                    // Nobody has been served here: the sockets are the other process's.
                    self.inbox.close();
                    return Ok(Tick::Ended);
                }
            }
        }
        self.handle_orders();
        self.core.account(self.driver.stale_total());
        Ok(Tick::Goes)
    }

    fn tick_quieting(&mut self) {
        let calm = self.core.handover.is_calm();
        if !calm {
            let now = self.core.env.now;
            let mut events = std::mem::take(&mut self.events);
            for event in events.drain(..) {
                self.handle_event(event, now);
            }
            self.events = events;
        }
        self.core.handle_messages_quieting(&self.inbox, calm);
        if !calm {
            self.core.handle_stored();
            self.core.deliver_pushes();
        }
        self.act();
        self.flush();
        self.core.finish_closed();
        self.act();
        if let Some(problem) = self.core.is_late() {
            return self.fail(problem.into());
        }
        let accepts = !self.driver.accept_is_idle();
        if self.core.agree(&self.inbox, accepts || !self.events.is_empty()) {
            self.core.freeze();
        }
    }

    fn say_parcels(&mut self) {
        let until = self.driver.now() + SLICE;
        loop {
            match self.core.say_ready() {
                Saying::Blocked => return,
                // Nobody listens: the upgrade was given up.
                Saying::Closed => return self.abort(None),
                Saying::Said => {}
            }
            let Some(frozen) = self.core.handover.frozen() else { return };
            if matches!(frozen.step, ExportStep::Over) || self.driver.now() >= until {
                return;
            }
            self.export_some();
        }
    }

    /// Carries out what the node wants.
    pub(in crate::shard) fn handle_orders(&mut self) {
        self.core.say_unsaid();
        while let Some(order) = self.core.handover.orders.pop_front() {
            match order {
                Order::Listeners(outlet) => {
                    let said = match self.driver.listeners() {
                        Ok(listeners) => Said::Listeners(listeners),
                        Err(error) => Said::Failed(format!("listeners cannot be handed over: {error}")),
                    };
                    self.core.say(&outlet, said);
                }
                Order::Ahead(outlet) => self.begin_ahead(outlet),
                Order::Begin { outlet, attempt } => self.begin_handover(outlet, attempt),
                Order::Abort => self.abort(None),
                Order::Commit => self.commit(),
                Order::Adopt(parcels, afloat) => {
                    parcels.into_iter().for_each(|parcel| self.adopt(parcel));
                    drop(afloat);
                }
                Order::Arm(outlet) => {
                    let said = self.core.arm();
                    self.core.say(&outlet, said);
                }
                Order::Resume(outlet) => self.resume(outlet),
            }
        }
    }

    pub(super) fn refuses_handover(&self) -> Option<&'static str> {
        match () {
            () if self.core.handover.is_under_way() => Some("an upgrade is under way"),
            () if self.core.env.ending.is_some() => Some("the node is ending"),
            () => self.driver.export_is_refused(),
        }
    }

    fn begin_handover(&mut self, outlet: Outlet, attempt: u32) {
        if let Some(refused) = self.refuses_handover() {
            return self.core.say(&outlet, Said::Failed(refused.into()));
        }
        self.driver.hold_reads(true);
        self.driver.accept_pause();
        self.accept_again_at = None;
        self.core.begin_quieting(outlet, attempt);
    }

    /// Goes on as if nothing had happened.
    fn abort(&mut self, failed: Option<String>) {
        let ahead = self.core.handover.ahead.take();
        let (outlet, kept) = match self.core.handover.stage.take().map(|stage| *stage) {
            Some(
                HandoverStage::Quieting(Quieting { outlet, kept, .. })
                | HandoverStage::Frozen(Frozen { outlet, kept, .. }),
            ) => (outlet, kept),
            other => {
                self.core.handover.stage = other.map(Box::new);
                if let Some(ahead) = ahead {
                    self.core.say(&ahead.outlet, Said::Aborted);
                }
                return;
            }
        };
        self.core.handover.early.clear();
        self.driver.hold_reads(false);
        if self.core.env.ending.is_none() {
            self.driver.accept_start();
        }
        for message in kept {
            self.core.handle_message(message);
        }
        self.core.say(&outlet, failed.map_or(Said::Aborted, Said::Failed));
    }

    /// Something cannot be exported: the node decides.
    pub(in crate::shard) fn fail(&mut self, problem: String) {
        self.abort(Some(problem));
    }

    fn commit(&mut self) {
        let Some(HandoverStage::Frozen(frozen)) = self.core.handover.stage.take().map(|stage| *stage) else {
            return;
        };
        self.core.handover.ahead = None;
        self.core.handover.is_over = true;
        self.core.forget_moved(&frozen.moved);
        self.act();
        self.driver.hold_reads(false);
    }
}

/// What became of what was to be said.
enum Saying {
    Said,
    Blocked,
    Closed,
}

impl Core {
    fn has_handover_work(&self) -> bool {
        match self.handover.stage.as_deref() {
            Some(HandoverStage::Quieting(_)) => {
                self.messages.mailer.has_own() || self.delivery.pushes.has_any()
            }
            Some(HandoverStage::Frozen(frozen)) => {
                frozen.ready.is_empty() && !matches!(frozen.step, ExportStep::Over)
            }
            _ => false,
        }
    }

    /// It has said all it has to say, and its mail is out.
    fn awaits_orders(&self) -> bool {
        let is_over = match self.handover.stage.as_deref() {
            Some(HandoverStage::Frozen(frozen)) => {
                frozen.ready.is_empty() && matches!(frozen.step, ExportStep::Over)
            }
            Some(HandoverStage::Adopting(_)) => self.env.ending.is_none(),
            _ => false,
        };
        is_over && self.handover.unsaid.is_empty() && self.messages.mailer.waiting() == 0
    }

    /// Says it now, or in a later tick when there is no room for it.
    pub(super) fn say(&mut self, outlet: &Outlet, said: Said) {
        self.handover.unsaid.push_back((outlet.clone(), said));
        self.say_unsaid();
    }

    fn say_unsaid(&mut self) {
        while let Some((outlet, said)) = self.handover.unsaid.pop_front() {
            if let Err(TrySendError::Full((_, said))) = outlet.try_send((self.env.id, said)) {
                return self.handover.unsaid.push_front((outlet, said));
            }
        }
    }

    fn say_ready(&mut self) -> Saying {
        let id = self.env.id;
        let Some(frozen) = self.handover.frozen() else { return Saying::Said };
        while let Some(said) = frozen.ready.pop_front() {
            match frozen.outlet.try_send((id, said)) {
                Ok(()) => {}
                Err(TrySendError::Full((_, said))) => {
                    frozen.ready.push_front(said);
                    return Saying::Blocked;
                }
                Err(TrySendError::Disconnected(_)) => return Saying::Closed,
            }
        }
        Saying::Said
    }

    fn begin_quieting(&mut self, outlet: Outlet, attempt: u32) {
        let mut agreement = Agreement::new(attempt, self.env.id, self.messages.mailer.router().shards());
        for mark in std::mem::take(&mut self.handover.early) {
            agreement.handle_mark(mark);
        }
        self.handover.stage = Some(Box::new(HandoverStage::Quieting(Quieting {
            outlet,
            agreement,
            since: self.env.now,
            posted: 0,
            busy: None,
            kept: VecDeque::new(),
        })));
    }

    pub fn handle_mark(&mut self, mark: AgreementMark) {
        match self.handover.stage.as_deref_mut() {
            Some(HandoverStage::Quieting(quieting)) => quieting.agreement.handle_mark(mark),
            Some(_) => {}
            // Of an attempt that this shard has not heard of yet, or that was given up. Bound: two for each shard.
            None => {
                self.handover.early.retain(|early| early.attempt >= mark.attempt);
                if self.handover.early.iter().all(|early| early.attempt == mark.attempt) {
                    self.handover.early.push(mark);
                }
            }
        }
    }

    /// All that shards say to each other, and what the control plane asks, unless this shard has said that it is at rest.
    fn handle_messages_quieting(&mut self, inbox: &ShardInbox, calm: bool) {
        for _ in 0..MESSAGES_PER_TICK {
            let mailer = &mut self.messages.mailer;
            let own = mailer.take_own_user().or_else(|| mailer.take_own());
            let Some(message) = own.or_else(|| inbox.pop_user()).or_else(|| inbox.pop()) else { break };
            self.handle_message(message);
        }
        if calm {
            return self.keep_control_messages(inbox);
        }
        while let Some(message) = self.handover.kept().and_then(VecDeque::pop_front) {
            self.handle_message(message);
        }
        for _ in 0..MESSAGES_PER_TICK {
            let Some(message) = inbox.pop_control() else { return };
            self.handle_message(message);
        }
    }

    /// What the node wants is done, and who counts is answered; all else is kept for when this shard goes on.
    fn keep_control_messages(&mut self, inbox: &ShardInbox) {
        while let Some(message) = inbox.pop_control() {
            // Once it is to serve, its end is that of a shard that serves.
            let serves_nobody = self.handover.adopting().is_some()
                && !self.handover.orders.iter().any(|order| matches!(order, Order::Resume(_)));
            let at_once = matches!(
                &message,
                ShardMessage::ControlRequest(ask)
                    if matches!(**ask, ControlRequest::Handover(_) | ControlRequest::Stats(_))
                        || matches!(**ask, ControlRequest::Shutdown(_)) && serves_nobody
            );
            match at_once {
                true => self.handle_message(message),
                false => {
                    if let Some(kept) = self.handover.kept() {
                        kept.push_back(message);
                    }
                }
            }
        }
    }

    /// A round of the agreement, as far as it goes. True when all shards are at rest.
    fn agree(&mut self, inbox: &ShardInbox, busy: bool) -> bool {
        let requests = self.has_requests() || self.owned.channels.waits_for_store();
        // An engine's items and answers come from outside of the rounds.
        let mailer = &self.messages.mailer;
        let engine = mailer.asked() > 0 || mailer.router().engine().is_some() && !inbox.is_empty();
        let requests = requests || engine;
        let delivers = self.delivery.pushes.has_any() || !self.links.actions.is_empty();
        let mailer = &mut self.messages.mailer;
        let Some(HandoverStage::Quieting(quieting)) = self.handover.stage.as_deref_mut() else {
            return false;
        };
        let agreement = &mut quieting.agreement;
        if agreement.may_mark() && mailer.waiting() == 0 && !mailer.has_own() && inbox.users() == 0 {
            let said = mailer.posted_total() != quieting.posted;
            let mark = agreement.mark(!said && !busy && !requests && !delivers && quieting.kept.is_empty());
            let others = mailer.router().every_shard().filter(|to| *to != mark.from);
            others.for_each(|to| mailer.post(to, ShardMessage::Quiet(Box::new(mark))));
            quieting.posted = mailer.posted_total();
        }
        agreement.step()
    }

    /// What has taken longer, outside of shards, than clients may wait.
    fn is_late(&self) -> Option<&'static str> {
        let Some(HandoverStage::Quieting(quieting)) = self.handover.stage.as_deref() else { return None };
        match () {
            () if quieting.since + OUTSIDE_PATIENCE > self.env.now => None,
            () if self.owned.channels.waits_for_store() => Some("the store does not write what is under way"),
            () if self.messages.mailer.asked() > 0 => Some("the engine does not answer what is under way"),
            () => None,
        }
    }

    /// Requests are under way that are answered soon.
    fn has_requests(&mut self) -> bool {
        let Some(HandoverStage::Quieting(quieting)) = self.handover.stage.as_deref_mut() else {
            return false;
        };
        if quieting.since + REQUESTS_PATIENCE <= self.env.now {
            return false;
        }
        let connections = &self.links.connections;
        let is_busy = |slot: &u32| {
            let http = connections.requests(*slot).and_then(Option::as_ref);
            http.is_some_and(|http| !http.is_waiting())
        };
        let busy =
            quieting.busy.get_or_insert_with(|| connections.iter().map(|(slot, _)| slot).collect::<Vec<_>>());
        busy.retain(is_busy);
        !busy.is_empty()
    }

    fn freeze(&mut self) {
        self.tell_early();
        let Some(HandoverStage::Quieting(quieting)) = self.handover.stage.take().map(|stage| *stage) else {
            return;
        };
        let Quieting { outlet, kept, .. } = quieting;
        self.handover.stage = Some(Box::new(HandoverStage::Frozen(Frozen {
            outlet,
            kept,
            step: ExportStep::Shard,
            ready: VecDeque::new(),
            moved: Vec::new(),
            counts: Default::default(),
        })));
    }
}

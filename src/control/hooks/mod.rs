//! Hooks: hook calls of sessions that the backend answers over HTTP.
//!
//! Inputs: [`HookCall`]s from shards, by way of [`ControlPlane::ask_backend`](crate::shard::control_request::ControlPlane). Outputs:
//! POST requests to the endpoints of the configuration, and answers back to the shards. Must not know: sessions,
//! sockets of clients, what an answer leads to.
//!
//! ```text
//!  shard ──HookCall──▶ Hooks::ask ──▶ line (bounded) ──▶ gate ──▶ breaker ──▶ POST ──▶ wire::decode ──▶ BackendReply
//!                        │ full: Busy         │ open: Unavailable at once         │ trouble: Unavailable
//! ```
//! [`gate`] (how many hook calls at a time) and [`breaker`] (whether any) protect the backend. Each hook
//! has its own, and a pool of connections of its own: one bad endpoint is no other's trouble.

mod breaker;
mod fault;
mod gate;
mod hook;
mod metrics;
mod wire;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::base::trace::{TRACEPARENT, TraceContext};
use crate::config;
use crate::control::deliver::deliver;
use crate::control::hooks::fault::HookFault;
use crate::control::hooks::hook::{HookClient, HookTurn};
use crate::control::hooks::metrics::HooksMetrics;
use crate::control::traces::{Begun, Tracer};
use crate::session::hook_call::{Answer, Cancel, Denied, HookCall, Waiting};
use crate::shard::control_request::{BackendReply, Busy};

/// Hooks that are ready to be asked.
pub struct HooksByName(HashMap<String, Arc<HookClient>>);

/// Every hook of the configuration.
pub struct Hooks {
    by_name: RwLock<HashMap<String, Arc<HookClient>>>,
    metrics: HooksMetrics,
}

impl Hooks {
    /// # Errors
    /// When a hook's endpoint is https and the machine has no root certificates. Names the hook.
    pub fn new(hooks: &[config::Hook]) -> io::Result<Hooks> {
        let (metrics, started) = (HooksMetrics::default(), Instant::now());
        let by_name = hooks.iter().map(|hook| {
            let made = HookClient::new(hook, metrics.of(&hook.name), started);
            let made = made.map_err(|why| io::Error::other(format!("hook {:?}: {why}", hook.name)))?;
            Ok((hook.name.clone(), Arc::new(made)))
        });
        Ok(Hooks { by_name: RwLock::new(by_name.collect::<io::Result<_>>()?), metrics })
    }

    /// The hooks of another configuration: those whose settings are the same stay as they are. So do those that are gone
    /// from it, for who may still ask them.
    ///
    /// # Errors
    /// As [`Hooks::new`].
    pub fn prepare(&self, hooks: &[config::Hook]) -> io::Result<HooksByName> {
        let mut by_name = self.by_name.read().clone();
        for hook in hooks {
            if by_name.get(&hook.name).is_some_and(|old| old.settings == *hook) {
                continue;
            }
            let made = HookClient::new(hook, self.metrics.of(&hook.name), Instant::now());
            let made = made.map_err(|why| io::Error::other(format!("hook {:?}: {why}", hook.name)))?;
            by_name.insert(hook.name.clone(), Arc::new(made));
        }
        Ok(HooksByName(by_name))
    }

    pub fn exchange(&self, hooks: HooksByName) {
        *self.by_name.write() = hooks.0;
    }

    /// Forgets hooks that nobody asks any more.
    pub fn retain(&self, hooks: &[config::Hook]) {
        self.by_name.write().retain(|name, _| hooks.iter().any(|hook| hook.name == *name));
    }

    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// Takes a hook call; never blocks. Its answer comes by `reply`, from `runtime`'s threads.
    ///
    /// # Errors
    /// [`Busy`] when too many hook calls wait for the hook already and its policy is to refuse, or when there is no such
    /// hook.
    pub fn ask(
        &self,
        runtime: &Handle,
        hook_call: HookCall,
        tracer: Option<&Arc<Tracer>>,
        reply: BackendReply,
    ) -> Result<Waiting, Busy> {
        let kind = wire::kind(&hook_call.hook_request);
        let Some(hook) = self.by_name.read().get(&*hook_call.hook).cloned() else {
            debug_assert!(false, "the configuration was checked for {:?}", hook_call.hook);
            return Err(Busy);
        };
        let hook = &hook;
        let mut promise = Promise(Some(reply));
        let task = match hook.enter(&hook_call) {
            Some(turn) => {
                // Made here: a task that is cancelled before it began counts too.
                let span =
                    tracer.and_then(|tracer| Some((Arc::clone(tracer), begin_span(tracer, &hook_call)?)));
                let tally = HookTally { hook: Arc::clone(hook), kind, outcome: "cancelled", span };
                runtime.spawn(answer(tally, hook_call, turn, promise))
            }
            None => {
                hook.log(kind, &HookFault::WaitFull);
                hook.metrics.count(kind, HookFault::WaitFull.cause());
                if !hook.lets_in() {
                    promise.0 = None;
                    return Err(Busy);
                }
                // Through the mailbox as every answer: the shard is not called back from within its own call.
                let unavailable = hook.unavailable();
                runtime.spawn(async move { promise.keep(Err(unavailable)).await })
            }
        };
        Ok(Waiting::new(HookTask(task.abort_handle())))
    }
}

/// What is working on a hook call.
struct HookTask(AbortHandle);

impl Cancel for HookTask {
    fn cancel(self: Box<Self>) {
        self.0.abort();
    }
}

async fn answer(mut tally: HookTally, hook_call: HookCall, turn: HookTurn, promise: Promise) {
    let hook = Arc::clone(&tally.hook);
    let trace = tally.span.as_ref().map(|(_, span)| span.context);
    let answer = match hook.ask(&hook_call, turn, trace).await {
        Ok(answer) => {
            tally.outcome = match &answer {
                Ok(_) => "result",
                Err(Denied::Disconnect(_)) => "disconnect",
                Err(_) => "error",
            };
            answer
        }
        Err(fault) => {
            hook.log(tally.kind, &fault);
            tally.outcome = fault.cause();
            Err(hook.unavailable())
        }
    };
    // Before the answer is told: who has it may look at the metrics.
    drop(tally);
    drop(hook_call);
    promise.keep(answer).await;
}

/// Below the connect of the client, in the trace that it came with.
fn begin_span(tracer: &Tracer, hook_call: &HookCall) -> Option<Begun> {
    let headers = hook_call.caller.headers.iter().flat_map(|headers| headers.iter());
    let mut given = headers.filter(|(name, _)| &**name == TRACEPARENT);
    let remote = given.next().and_then(|(_, value)| TraceContext::parse(value));
    tracer.begin_hook(hook_call.caller.client, remote)
}

/// Counts a hook call once, with any outcome.
struct HookTally {
    hook: Arc<HookClient>,
    kind: &'static str,
    outcome: &'static str,
    span: Option<(Arc<Tracer>, Begun)>,
}

impl Drop for HookTally {
    fn drop(&mut self) {
        self.hook.metrics.count(self.kind, self.outcome);
        if let Some((tracer, span)) = self.span.take() {
            tracer.end_hook(span, &self.hook.name, self.kind, self.outcome);
        }
    }
}

/// The answer that a session waits for: it comes even when the code here has a bug.
struct Promise(Option<BackendReply>);

impl Promise {
    async fn keep(mut self, answer: Result<Answer, Denied>) {
        let Some(mut reply) = self.0.take() else { return };
        let mut answer = Some(answer);
        deliver(move || {
            reply.send(&mut answer);
            answer.is_none()
        })
        .await;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        // Cancelled is not broken: then nobody waits.
        if let Some(reply) = &mut self.0
            && std::thread::panicking()
        {
            reply.send(&mut Some(Err(Denied::Unavailable { let_in: false })));
        }
    }
}

#[cfg(test)]
mod backend_tests;

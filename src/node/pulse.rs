//! Whether every shard still turns: each is asked every few seconds. `/health/live` and the service manager's watchdog
//! learn it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::base::ids::ShardId;
use crate::control::{NotReady, Readiness};
use crate::node::notify::Notify;
use crate::shard::control_request::{ControlReply, ControlRequest};
use crate::shard::router::Router;

/// How often shards are asked. An idle one wakes every second anyway.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// A shard without an answer for so long is stuck: no turn of the loop takes a hundredth of it, on any host that should
/// hold connections.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// What is known of one shard.
struct Pulse {
    shard: ShardId,
    answered: Arc<AtomicBool>,
    asked: bool,
    last: Instant,
}

impl Pulse {
    /// Looks for the answer, and asks again. False when there has been none for too long.
    fn beat(&mut self, router: &Router, now: Instant) -> bool {
        if self.answered.swap(false, Ordering::Relaxed) {
            (self.last, self.asked) = (now, false);
        }
        if !self.asked {
            let answered = Arc::clone(&self.answered);
            let reply = ControlReply::new(move |answer: Result<(), _>| {
                if answer.is_ok() {
                    answered.store(true, Ordering::Relaxed);
                }
            });
            // A full inbox is asked again next time.
            self.asked = router.ask(self.shard, ControlRequest::Alive(reply)).is_ok();
        }
        now.duration_since(self.last) < STUCK_AFTER
    }
}

/// Watches from a thread that lives as long as the process.
///
/// # Errors
/// When no thread can be started.
pub fn watch(router: Router, readiness: Arc<Readiness>, notify: Arc<Notify>) -> io::Result<()> {
    let interval = notify.alive_interval().map_or(ASK_INTERVAL, |interval| interval.min(ASK_INTERVAL));
    let started = Instant::now();
    let of = |shard| Pulse { shard, answered: Arc::default(), asked: false, last: started };
    let mut pulses: Vec<Pulse> = router.every_shard().map(of).collect();
    thread::Builder::new().name("pulse".into()).spawn(move || {
        loop {
            let now = Instant::now();
            let stuck: Vec<u16> = pulses
                .iter_mut()
                .filter_map(|pulse| (!pulse.beat(&router, now)).then_some(pulse.shard.0))
                .collect();
            let was_stuck = readiness.has(NotReady::Stuck);
            readiness.set(NotReady::Stuck, !stuck.is_empty());
            match (stuck.is_empty(), was_stuck) {
                (true, true) => tracing::info!("all shards answer again"),
                (false, false) => tracing::error!("shards {stuck:?} have not answered for {STUCK_AFTER:?}"),
                _ => {}
            }
            if stuck.is_empty() {
                notify.alive();
            }
            thread::sleep(interval);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::mailbox::{ShardInbox, ShardMessage};

    #[test]
    fn a_shard_that_does_not_answer_is_stuck_and_one_that_answers_again_is_not() {
        let inbox = Arc::new(ShardInbox::new(1));
        let router = Router::new(Arc::from([Arc::clone(&inbox)]), [1; 4]);
        let began = Instant::now();
        let mut pulse = Pulse { shard: ShardId(0), answered: Arc::default(), asked: false, last: began };
        let answer = || {
            let Some(ShardMessage::ControlRequest(ask)) = inbox.pop_control() else {
                panic!("it was not asked")
            };
            let ControlRequest::Alive(reply) = *ask else { panic!("asked something else") };
            reply.send(Ok(()));
        };
        let mut now = began;
        for _ in 0..20 {
            assert!(pulse.beat(&router, now));
            answer();
            now += ASK_INTERVAL;
        }
        // One question waits, however long it takes.
        let silent = now;
        while now < silent + STUCK_AFTER {
            assert!(pulse.beat(&router, now), "{:?}", now - silent);
            now += ASK_INTERVAL;
        }
        assert!(!pulse.beat(&router, now));
        answer();
        assert!(pulse.beat(&router, now) && pulse.beat(&router, now + ASK_INTERVAL));
        // One that is dropped is no answer.
        drop(inbox.pop_control());
        assert!(!pulse.beat(&router, now + STUCK_AFTER + ASK_INTERVAL));
    }
}

//! The inbox of a shard under a model checker: every interleaving of its threads, and every value that a load may see.
//!
//! `src/shard/inbox.rs` is compiled as it is shipped, over loom's atomics. crossbeam's queue is trusted: a locked one
//! stands for it, as loom has no total order of `SeqCst` accesses, on which the lock-free one rests.
//! A wake-up that is lost leaves the consumer waiting for ever, which loom reports as a deadlock.

use std::sync::atomic::{AtomicUsize, Ordering};

use loom::sync::{Condvar, Mutex};
use loom::thread;

use crate::inbox::Inbox;
use crate::shard::sync::Arc;

#[allow(dead_code)]
#[path = "../src/shard/inbox.rs"]
mod inbox;

mod driver {
    pub trait Wake: Send + Sync {
        fn wake(&self);
    }
}

mod shard {
    pub mod sync {
        use std::collections::VecDeque;

        use loom::sync::Mutex;

        pub use std::sync::atomic::Ordering;
        pub use std::sync::{Arc, OnceLock};

        pub use loom::sync::atomic::AtomicBool;

        /// A bounded queue whose operations come one after the other, as those of crossbeam's queue do.
        pub struct ArrayQueue<T> {
            capacity: usize,
            values: Mutex<VecDeque<T>>,
        }

        impl<T> ArrayQueue<T> {
            pub fn new(capacity: usize) -> ArrayQueue<T> {
                ArrayQueue { capacity, values: Mutex::new(VecDeque::new()) }
            }

            pub fn push(&self, value: T) -> Result<(), T> {
                let mut values = self.values.lock().expect("no panic");
                if values.len() == self.capacity {
                    return Err(value);
                }
                values.push_back(value);
                Ok(())
            }

            pub fn pop(&self) -> Option<T> {
                self.values.lock().expect("no panic").pop_front()
            }

            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            pub fn len(&self) -> usize {
                self.values.lock().expect("no panic").len()
            }
        }
    }
}

/// The eventfd that a driver waits on.
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn wait(&self) {
        let mut rung = self.rung.lock().expect("no panic");
        while !*rung {
            rung = self.changed.wait(rung).expect("no panic");
        }
        *rung = false;
    }
}

impl driver::Wake for Bell {
    fn wake(&self) {
        *self.rung.lock().expect("no panic") = true;
        self.changed.notify_one();
    }
}

/// Interleavings with more switches than these are left out: the known faults of such protocols need two.
const SWITCHES_MAX: usize = 3;

fn check(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(SWITCHES_MAX);
    model.check(run);
}

fn new_inbox(capacity: usize) -> (Arc<Inbox<usize>>, Arc<Bell>) {
    let inbox = Arc::new(Inbox::new(capacity));
    let bell = Arc::new(Bell { rung: Mutex::new(false), changed: Condvar::new() });
    inbox.set_waker(bell.clone());
    (inbox, bell)
}

/// What a shard does: takes what is there, and waits when nothing is.
fn receive(inbox: &Inbox<usize>, bell: &Bell, wanted: usize) -> Vec<usize> {
    let mut taken = Vec::new();
    loop {
        while let Some(message) = inbox.pop() {
            taken.push(message);
        }
        if taken.len() == wanted {
            return taken;
        }
        if inbox.about_to_sleep() {
            bell.wait();
            inbox.awake();
        }
    }
}

#[test]
fn no_wake_up_is_lost_between_two_producers() {
    check(|| {
        let (inbox, bell) = new_inbox(4);
        let producers = [[11, 12], [21, 22]].map(|messages| {
            let inbox = inbox.clone();
            thread::spawn(move || messages.map(|message| inbox.push(message).expect("room for all")))
        });
        let taken = receive(&inbox, &bell, 4);
        for first in [11, 21] {
            let place = |wanted| taken.iter().position(|message| *message == wanted);
            assert!(place(first) < place(first + 1), "the order of a producer: {taken:?}");
        }
        for producer in producers {
            producer.join().expect("no panic");
        }
    });
}

#[test]
fn a_producer_s_messages_keep_their_order_and_none_is_lost_when_it_is_full() {
    check(|| {
        let (inbox, bell) = new_inbox(1);
        let producer = {
            let inbox = inbox.clone();
            thread::spawn(move || {
                for mut message in [1, 2] {
                    while let Err(back) = inbox.push(message) {
                        message = back;
                        thread::yield_now();
                    }
                }
            })
        };
        assert_eq!(receive(&inbox, &bell, 2), [1, 2]);
        producer.join().expect("no panic");
    });
}

/// An ask is answered by the drop of its message: one that stays in a closed inbox would be waited for.
#[test]
fn nothing_stays_in_a_closed_inbox() {
    check(|| {
        let (inbox, _bell) = new_inbox(2);
        let producer = {
            let inbox = inbox.clone();
            thread::spawn(move || {
                inbox.push(1).expect("room");
                inbox.push(2).expect("room, or closed");
            })
        };
        inbox.pop();
        inbox.close();
        producer.join().expect("no panic");
        assert!(inbox.is_empty());
    });
}

/// A client is answered and its backend asks for its user: the user's owner knows the client by then, whatever waits in the
/// queue between shards. The API once overtook it there.
#[test]
fn a_request_finds_what_was_said_of_users_before_it() {
    check(|| {
        let (inbox, _bell) = new_inbox(2);
        inbox.push(1).expect("room");
        let producer = {
            let inbox = inbox.clone();
            thread::spawn(move || {
                inbox.push_user(2).expect("room");
                inbox.push_control(3).expect("room");
            })
        };
        if inbox.pop_control() == Some(3) {
            assert_eq!(inbox.pop_user(), Some(2));
        }
        producer.join().expect("no panic");
    });
}

/// The checker sees a lost wake-up when there is one: a consumer that does not look again before it waits.
#[test]
fn the_checker_sees_a_lost_wake_up() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let outcome = std::panic::catch_unwind(|| {
        check(|| {
            RUNS.fetch_add(1, Ordering::Relaxed);
            let (inbox, bell) = new_inbox(1);
            let producer = {
                let inbox = inbox.clone();
                thread::spawn(move || inbox.push(1).expect("room"))
            };
            while inbox.pop().is_none() {
                let _ = inbox.about_to_sleep();
                bell.wait();
                inbox.awake();
            }
            producer.join().expect("no panic");
        });
    });
    assert!(outcome.is_err(), "{} interleavings and no deadlock", RUNS.load(Ordering::Relaxed));
}

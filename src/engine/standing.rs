//! Whether the engine's servers are there, for readiness and for the start.

use std::fmt;
use std::sync::OnceLock;

use parking_lot::Mutex;

/// How an engine stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stands {
    /// Every server answers.
    Up,
    /// Why not.
    Away(String),
    /// A server does not let this node in, and never has: to wait is no use.
    Refused(String),
}

/// Whether a connection has ended because of the server's certificate: it is of no known authority, of another name, or over.
/// Like a wrong password, it does not become right by waiting.
pub fn is_untrusted(error: &impl fmt::Display) -> bool {
    // The text of rustls: client libraries wrap its error in others, some as text alone. Tests of real servers hold it.
    error.to_string().contains("invalid peer certificate")
}

type StandingWatch = Box<dyn Fn(&Stands) + Send + Sync>;

pub struct SubscriptionStanding {
    servers: Mutex<Vec<OfServer>>,
    watch: OnceLock<StandingWatch>,
}

#[derive(Clone)]
struct OfServer {
    stands: Stands,
    was_up: bool,
}

impl SubscriptionStanding {
    pub fn new(servers: usize) -> SubscriptionStanding {
        let away = OfServer { stands: Stands::Away("not connected yet".to_owned()), was_up: false };
        SubscriptionStanding { servers: Mutex::new(vec![away; servers]), watch: OnceLock::new() }
    }

    pub fn set(&self, server: usize, stands: Stands) {
        let mut servers = self.servers.lock();
        let of = &mut servers[server];
        of.was_up |= stands == Stands::Up;
        of.stands = match stands {
            // It did let this node in: a password that is being changed is an outage.
            Stands::Refused(why) if of.was_up => Stands::Away(why),
            stands => stands,
        };
        if let Some(watch) = self.watch.get() {
            watch(&worst(&servers));
        }
    }

    pub fn now(&self) -> Stands {
        worst(&self.servers.lock())
    }

    /// Has it said how it stands, now and whenever that changes. Once.
    pub fn watch(&self, watch: impl Fn(&Stands) + Send + Sync + 'static) {
        let servers = self.servers.lock();
        let watch = self.watch.get_or_init(|| Box::new(watch));
        watch(&worst(&servers));
    }
}

fn worst(servers: &[OfServer]) -> Stands {
    let of = |wanted: fn(&Stands) -> bool| servers.iter().map(|of| &of.stands).find(|stands| wanted(stands));
    of(|stands| matches!(stands, Stands::Refused(_)))
        .or_else(|| of(|stands| matches!(stands, Stands::Away(_))))
        .cloned()
        .unwrap_or(Stands::Up)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn all_servers_must_be_up_and_a_refusal_counts_before_the_first_time() {
        let standing = SubscriptionStanding::new(2);
        let seen: Arc<Mutex<Vec<Stands>>> = Arc::default();
        standing.watch({
            let seen = Arc::clone(&seen);
            move |stands| seen.lock().push(stands.clone())
        });
        standing.set(0, Stands::Up);
        assert_eq!(standing.now(), Stands::Away("not connected yet".into()));
        standing.set(1, Stands::Refused("no".into()));
        assert_eq!(standing.now(), Stands::Refused("no".into()));
        standing.set(1, Stands::Up);
        standing.set(1, Stands::Refused("changed".into()));
        assert_eq!(standing.now(), Stands::Away("changed".into()));
        assert_eq!(seen.lock().len(), 5);
        assert_eq!(seen.lock()[3], Stands::Up);
    }
}

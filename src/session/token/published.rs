//! The keys that an issuer publishes, between the control plane, which fetches them, and the shards, which need them.
//!
//! ```text
//!            find: not there                 take_wanted             publish: still not there
//!  (unknown) ───────────────▶ wanted (100) ─────────────▶ asked (100) ───────────────────────▶ absent (invalid)
//!                                  ▲                        │ failed                               │ ABSENT_S
//!                                  └────────────────────────┘            (unknown) ◀───────────────┘
//! ```
//! A key that is not there is only invalid once a fetch that *began after* somebody showed its name has come without it:
//! an issuer that changes its keys must not lose a client between two fetches. Until then its tokens get a temporary
//! error. While the issuer cannot be reached nobody learns more, and the keys that are known go on serving.
//!
//! A lock is taken for each connect with such a token and never for a publication; writers hold it for an assignment.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::session::token::algorithm::Algorithm;
use crate::session::token::keys::{KEY_NAME_BYTES_MAX, KeySet, TokenKey};

/// Names of keys that wait for one fetch. Who shows more is guessing; what does not fit waits for a later fetch.
const WANTED_MAX: usize = 64;
/// Names that are known to be nobody's. Beyond, the oldest are forgotten and would be asked for again.
const ABSENT_MAX: usize = 256;
/// How long such a name is not asked for again, in seconds.
const ABSENT_S: u64 = 30;

/// One issuer's keys. Shared by every verifier that uses its URL.
pub struct PublishedKeys {
    url: Box<str>,
    refresh: Duration,
    set: RwLock<Arc<KeySet>>,
    missing: Mutex<Missing>,
    wanted: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for PublishedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishedKeys").field("url", &self.url).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Missing {
    /// A fetch has succeeded.
    known: bool,
    wanted: Vec<Box<str>>,
    asked: Vec<Box<str>>,
    /// With the time, in seconds since 1970, until which each is taken for absent.
    /// Bound: `ABSENT_MAX`.
    absent: VecDeque<(Box<str>, u64)>,
}

/// What there is for a token.
pub(super) enum Sought {
    Found(Arc<TokenKey>),
    /// A fetch is under way or due: nobody can tell yet.
    Awaited,
    Absent,
    /// The token names no key, and not exactly one would do.
    Unnamed,
    /// The key of that name is for other algorithms.
    Misfit,
    LongName,
}

impl PublishedKeys {
    pub fn new(url: &str, refresh: Duration) -> PublishedKeys {
        PublishedKeys {
            url: url.into(),
            refresh,
            set: RwLock::default(),
            missing: Mutex::default(),
            wanted: OnceLock::new(),
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// How long a set is taken for current.
    pub fn refresh(&self) -> Duration {
        self.refresh
    }

    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm, unix_now_s: u64) -> Sought {
        let set = Arc::clone(&self.set.read());
        let Some(kid) = kid else {
            let mut fitting = set.fitting(algorithm);
            return match (fitting.next(), fitting.next()) {
                (Some(only), None) => Sought::Found(Arc::clone(only)),
                _ if self.missing.lock().known => Sought::Unnamed,
                _ => Sought::Awaited,
            };
        };
        if let Some(key) = set.named(kid).find(|key| key.fits(algorithm)) {
            return Sought::Found(Arc::clone(key));
        }
        if set.has(kid) {
            return Sought::Misfit;
        }
        if kid.len() > KEY_NAME_BYTES_MAX {
            return Sought::LongName;
        }
        self.miss(kid, unix_now_s)
    }

    fn miss(&self, kid: &str, unix_now_s: u64) -> Sought {
        let mut missing = self.missing.lock();
        let Missing { wanted, asked, absent, .. } = &mut *missing;
        absent.retain(|(_, until)| *until > unix_now_s);
        if absent.iter().any(|(known, _)| **known == *kid) {
            return Sought::Absent;
        }
        if asked.iter().chain(&*wanted).any(|known| **known == *kid) {
            return Sought::Awaited;
        }
        if wanted.len() < WANTED_MAX {
            wanted.push(kid.into());
        }
        drop(missing);
        if let Some(tell) = self.wanted.get() {
            tell();
        }
        Sought::Awaited
    }

    // --- for the control plane, which fetches

    /// Calls `tell`, from any thread, whenever a key is missed that was not missed before. It must not block. The first
    /// one to call this is the one that hears of it.
    pub fn on_wanted(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _ = self.wanted.set(Box::new(tell));
    }

    pub fn is_wanted(&self) -> bool {
        let missing = self.missing.lock();
        !missing.known || !missing.wanted.is_empty()
    }

    /// A fetch begins: it answers for everything that was missed until now.
    pub fn take_wanted(&self) {
        let missing = &mut *self.missing.lock();
        missing.asked.append(&mut missing.wanted);
        missing.asked.truncate(WANTED_MAX);
    }

    /// The fetch has succeeded at `unix_now_s`.
    pub fn publish(&self, set: KeySet, unix_now_s: u64) {
        let mut missing = self.missing.lock();
        missing.known = true;
        let asked = std::mem::take(&mut missing.asked);
        for kid in asked.into_iter().filter(|kid| !set.has(kid)) {
            if missing.absent.len() == ABSENT_MAX {
                missing.absent.pop_front();
            }
            missing.absent.push_back((kid, unix_now_s + ABSENT_S));
        }
        *self.set.write() = Arc::new(set);
    }

    /// The fetch has failed: what it was to answer is still wanted.
    pub fn fetch_failed(&self) {
        let missing = &mut *self.missing.lock();
        missing.wanted.append(&mut missing.asked);
        missing.wanted.truncate(WANTED_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    /// A set with one Ed25519 key of each name: the public key of RFC 8037 appendix A.2.
    fn set(names: &[&str]) -> KeySet {
        let key = |name: &&str| {
            format!(
                r#"{{"kty":"OKP","crv":"Ed25519","kid":"{name}","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}"#
            )
        };
        let keys: Vec<_> = names.iter().map(key).collect();
        KeySet::parse(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes()).unwrap()
    }

    fn sought(keys: &PublishedKeys, kid: &str, now: u64) -> &'static str {
        match keys.find(Some(kid), Algorithm::EdDSA, now) {
            Sought::Found(_) => "found",
            Sought::Awaited => "awaited",
            Sought::Absent => "absent",
            Sought::Unnamed => "unnamed",
            Sought::Misfit => "misfit",
            Sought::LongName => "long name",
        }
    }

    #[test]
    fn a_key_is_absent_only_after_a_fetch_that_began_after_it_was_missed() {
        let keys = PublishedKeys::new("http://issuer", Duration::from_secs(60));
        let told = Arc::new(Mutex::new(0));
        let count = Arc::clone(&told);
        keys.on_wanted(move || *count.lock() += 1);
        assert!(keys.is_wanted(), "nothing was fetched yet");
        assert_eq!(sought(&keys, "a", NOW), "awaited");
        assert_eq!(sought(&keys, "a", NOW), "awaited");
        assert_eq!(*told.lock(), 1, "told once");
        keys.take_wanted();
        // Missed while the fetch is under way: it may have been published since.
        assert_eq!(sought(&keys, "b", NOW), "awaited");
        keys.publish(set(&["a"]), NOW);
        assert_eq!(sought(&keys, "a", NOW), "found");
        assert_eq!(sought(&keys, "b", NOW), "awaited");
        assert!(keys.is_wanted());
        keys.take_wanted();
        keys.publish(set(&["a"]), NOW);
        assert_eq!(sought(&keys, "b", NOW), "absent");
        assert!(!keys.is_wanted(), "an absent key is not asked for again");
        assert_eq!(sought(&keys, "b", NOW + ABSENT_S), "awaited");
        assert!(keys.is_wanted(), "until its time is over");
        keys.take_wanted();
        keys.publish(set(&["b"]), NOW);
        assert_eq!((sought(&keys, "a", NOW), sought(&keys, "b", NOW)), ("awaited", "found"));
    }

    #[test]
    fn nothing_is_absent_and_nothing_is_lost_while_the_issuer_is_down() {
        let keys = PublishedKeys::new("http://issuer", Duration::from_secs(60));
        keys.take_wanted();
        keys.publish(set(&["a"]), NOW);
        assert_eq!(sought(&keys, "b", NOW), "awaited");
        for _ in 0..3 {
            keys.take_wanted();
            keys.fetch_failed();
            assert_eq!((sought(&keys, "a", NOW), sought(&keys, "b", NOW)), ("found", "awaited"));
            assert!(keys.is_wanted());
        }
    }

    #[test]
    fn made_up_names_cost_a_bounded_amount_and_displace_nobody() {
        let keys = PublishedKeys::new("http://issuer", Duration::from_secs(60));
        for round in 0..20 {
            for made_up in 0..1000 {
                assert_eq!(sought(&keys, &format!("{round}-{made_up}"), NOW), "awaited");
            }
            // One of ours among them that finds no room.
            assert_eq!(sought(&keys, "new", NOW), "awaited");
            keys.take_wanted();
            keys.publish(set(&["a"]), NOW);
            let missing = keys.missing.lock();
            assert!(missing.wanted.len() <= WANTED_MAX && missing.absent.len() <= ABSENT_MAX);
            assert!(missing.wanted.capacity() <= 2 * WANTED_MAX);
        }
        keys.take_wanted();
        keys.publish(set(&["new"]), NOW);
        assert_eq!(sought(&keys, "new", NOW), "found");
        assert_eq!(sought(&keys, &"x".repeat(KEY_NAME_BYTES_MAX + 1), NOW), "long name");
    }
}

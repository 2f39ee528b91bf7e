//! Fetches the keys that token issuers publish (JSON Web Key Sets) and keeps them current.
//!
//! Inputs: a URL, whom its certificate must come from, and the [`PublishedKeys`], which say when somebody misses a key.
//! Outputs: sets put there. Must not know: tokens, connections.
//!
//! One task for each URL, so that there is one fetch at a time however many clients wait for its outcome. It fetches at
//! start, again when the set has become old, and soon when a key is missed; never more often than [`PAUSE`]. While an
//! issuer is down its last keys go on serving.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::ACCEPT;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::config::Authorities;
use crate::control::metrics::JwksFetches;
use crate::control::outbound::{self, Reach, deepest, read_body};
use crate::session::token::keys::KeySet;
use crate::session::token::published::PublishedKeys;
use crate::telemetry::sparing::log_once_a_minute;

/// Between two fetches, for any reason: a stranger with made-up key names must not make us flood the issuer.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest that a failing issuer is left alone; the pause doubles until then.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long one fetch may take, name and body included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest set that is read: 128 keys of 4,096 bits with their certificates fit.
const BODY_BYTES_MAX: usize = 512 << 10;

/// Keys, and how they are fetched.
#[derive(Clone, Debug)]
pub struct Issuer {
    pub keys: Arc<PublishedKeys>,
    /// Whom the certificate of an https URL must come from; `None`: an authority that this machine trusts.
    pub authorities: Option<Authorities>,
}

/// Keeps the keys current for as long as the task is let run.
pub async fn keep(issuer: Issuer, fetches: JwksFetches) {
    let keys = &issuer.keys;
    let wanted = Arc::new(Notify::new());
    let tell = Arc::clone(&wanted);
    keys.on_wanted(move || tell.notify_one());
    let mut pause = PAUSE;
    loop {
        keys.take_wanted();
        let fetched = fetch(&issuer).await;
        fetches.count(fetched.is_ok());
        let succeeded = fetched.is_ok();
        match fetched {
            Ok(set) => {
                tracing::info!(url = keys.url(), keys = set.len(), "published token keys fetched");
                keys.publish(set, unix_now_s());
                pause = PAUSE;
            }
            Err(problem) => {
                keys.fetch_failed();
                let what = format!("{}: {problem}; the keys fetched before go on serving", keys.url());
                log_once_a_minute("jwks_fetch_failed", &what);
            }
        }
        sleep(pause).await;
        if succeeded {
            let due = tokio::time::Instant::now() + keys.refresh().saturating_sub(pause);
            // A notice may be of something that the last fetch has answered.
            while !keys.is_wanted() {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => break,
                    () = wanted.notified() => {}
                }
            }
        } else {
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Fetches a set once.
///
/// # Errors
/// What went wrong, in a sentence for the operator.
pub async fn fetch(issuer: &Issuer) -> Result<KeySet, String> {
    let url = issuer.keys.url();
    let reach = Reach { endpoint: url, http2: false, authorities: issuer.authorities.as_ref(), idle_max: 0 };
    let client = outbound::client(reach);
    let client = client.map_err(|error| deepest(&error))?;
    let request =
        client.get(url).header(ACCEPT, "application/jwk-set+json, application/json").timeout(TIMEOUT);
    let response = request.send().await.map_err(|error| match error.is_timeout() {
        true => format!("no answer within {TIMEOUT:?}"),
        false => deepest(&error),
    })?;
    if response.status() != 200 {
        return Err(format!("answered {}, and redirects are not followed", response.status().as_u16()));
    }
    let body = read_body(response, BODY_BYTES_MAX).await.map_err(|fault| fault.to_string())?;
    KeySet::parse(&body).map_err(str::to_string)
}

fn unix_now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

//! Keys of a configuration made into verifiers, and the commands that make and check tokens with them.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::base::bytes::Bytes;
use crate::config::cli::{TokenJob, TokenTask};
use crate::config::{ClientSettings, TokenSettings};
use crate::control::jwks::{self, Issuer};
use crate::session::token::keys::{KeyFault, TokenKey};
use crate::session::token::published::PublishedKeys;
use crate::session::token::{
    ConnectToken, Flaw, SubscribeGrant, SubscribeToken, TokenBasis, TokenFault, TokenOptions, Verifier,
    sign_connect, sign_subscribe,
};

/// What a node verifies tokens with.
#[derive(Clone)]
pub struct Tokens {
    /// `None`: no key is configured, no token is valid.
    pub verifier: Option<Arc<Verifier>>,
    /// Each once.
    pub issuers: Vec<Issuer>,
}

impl Tokens {
    /// Of `known` issuers the keys are taken that were fetched already.
    ///
    /// # Errors
    /// A key that is none. The check of the configuration has refused it with its name already.
    pub fn new(client: &ClientSettings, known: &[Issuer]) -> Result<Tokens, KeyFault> {
        let mut issuers = Issuers { known, used: Vec::new() };
        let own = client.subscription_token.has_keys();
        if !client.token.has_keys() && !own {
            return Ok(Tokens { verifier: None, issuers: Vec::new() });
        }
        let of_connections =
            TokenOptions { require_user: client.require_user, ..options(&client.token, &mut issuers)? };
        let mut verifier = Verifier::new(of_connections);
        // A subscription of nobody needs a token of nobody, whatever connections need.
        if !own && client.require_user {
            verifier = verifier.with_subscriptions(options(&client.token, &mut issuers)?);
        }
        if own {
            verifier = verifier.with_subscriptions(options(&client.subscription_token, &mut issuers)?);
        }
        if let Some(previous) = previous(&client.token, &mut issuers)? {
            verifier = verifier.with_previous(previous);
        }
        if own && let Some(previous) = previous(&client.subscription_token, &mut issuers)? {
            verifier = verifier.with_previous_subscriptions(previous);
        }
        Ok(Tokens { verifier: Some(Arc::new(verifier)), issuers: issuers.used })
    }
}

/// Issuers of a configuration, each once.
struct Issuers<'k> {
    known: &'k [Issuer],
    used: Vec<Issuer>,
}

/// What tokens of keys that were changed are held against, and until when: seconds since 1970.
fn previous(
    token: &TokenSettings,
    issuers: &mut Issuers<'_>,
) -> Result<Option<(TokenOptions, u64)>, KeyFault> {
    let Some(until) = token.previous_until else { return Ok(None) };
    // All but the keys holds for these tokens too.
    let mut options = TokenOptions {
        hmac_secret: Vec::new(),
        hmac_secrets: Vec::new(),
        rsa: None,
        ecdsa: None,
        eddsa: None,
        published: None,
        ..options(token, issuers)?
    };
    if let Some(secret) = &token.previous_hmac_secret {
        options.hmac_secret = secret.reveal().into();
    }
    if let Some(pem) = &token.previous_public_key {
        match (TokenKey::rsa(pem), TokenKey::ecdsa(pem), TokenKey::eddsa(pem)) {
            (Ok(key), ..) => options.rsa = Some(key),
            (_, Ok(key), _) => options.ecdsa = Some(key),
            (_, _, Ok(key)) => options.eddsa = Some(key),
            (Err(fault), ..) => return Err(fault),
        }
    }
    Ok(Some((options, until.unix_s())))
}

fn options(token: &TokenSettings, issuers: &mut Issuers<'_>) -> Result<TokenOptions, KeyFault> {
    let key = |pem: &Option<String>, read: fn(&str) -> Result<TokenKey, KeyFault>| {
        pem.as_deref().map(read).transpose()
    };
    let shared = token.jwks_url.as_ref().map(|url| {
        let is_same = |Issuer { keys, authorities }: &&Issuer| {
            keys.url() == url && keys.refresh() == token.jwks_refresh && *authorities == token.jwks_ca_file
        };
        if let Some(used) = issuers.used.iter().find(is_same) {
            return Arc::clone(&used.keys);
        }
        let issuer = issuers.known.iter().find(is_same).cloned().unwrap_or_else(|| Issuer {
            keys: Arc::new(PublishedKeys::new(url, token.jwks_refresh)),
            authorities: token.jwks_ca_file.clone(),
        });
        let keys = Arc::clone(&issuer.keys);
        issuers.used.push(issuer);
        keys
    });
    Ok(TokenOptions {
        hmac_secret: token.hmac_secret.as_ref().map_or_else(Vec::new, |secret| secret.reveal().into()),
        hmac_secrets: token.further_secrets().filter_map(Result::ok).collect(),
        rsa: key(&token.rsa_public_key, TokenKey::rsa)?,
        ecdsa: key(&token.ecdsa_public_key, TokenKey::ecdsa)?,
        eddsa: key(&token.eddsa_public_key, TokenKey::eddsa)?,
        published: shared,
        audience: token.audience.clone(),
        audience_pattern: token.audience_pattern.clone(),
        issuer: token.issuer.clone(),
        issuer_pattern: token.issuer_pattern.clone(),
        user_claim: Some(token.user_claim.clone()),
        require_user: false,
        leeway_s: token.leeway.as_secs(),
    })
}

/// Carries out a command: prints the token, or what a token says, on stdout. Exit code 1: it cannot be made, it is not
/// valid, or its issuer cannot be asked.
pub fn run(task: &TokenTask) -> ExitCode {
    let done = match &task.job {
        TokenJob::Check { token } => check(&task.config.client, token),
        job => make(&task.config.client, job),
    };
    match done {
        Ok(text) => {
            let _ = writeln!(std::io::stdout().lock(), "{text}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            let _ = writeln!(std::io::stderr().lock(), "error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn make(client: &ClientSettings, job: &TokenJob) -> Result<String, String> {
    let subscription = matches!(job, TokenJob::Subscription { .. }) && client.subscription_token.has_keys();
    let (path, options) = match subscription {
        true => ("client.subscription_token", &client.subscription_token),
        false => ("client.token", &client.token),
    };
    let Some(secret) = &options.hmac_secret else {
        return Err(format!("{path}.hmac_secret is not set, and tokens are made here with HMAC only"));
    };
    if options.user_claim != "sub" {
        return Err(format!(
            "{path}.user_claim is not sub, and tokens are made here with their user in sub only"
        ));
    }
    let secret = secret.reveal().as_bytes();
    let now = unix_now_s();
    let expires = |ttl: &Duration| (!ttl.is_zero()).then(|| now.saturating_add(ttl.as_secs()));
    let raw = |json: &Option<String>| {
        json.as_ref().map(|json| RawValue::from_string(json.clone())).transpose().map_err(|e| e.to_string())
    };
    let basis = |user, ttl, info| TokenBasis {
        user,
        expires_at_s: expires(ttl),
        issued_at_s: Some(now),
        audience: options.audience.as_deref(),
        issuer: options.issuer.as_deref(),
        info,
    };
    let made = match job {
        TokenJob::Connection { user, device, ttl, channels, info, meta } => {
            let (info, meta) = (raw(info)?, raw(meta)?);
            let basis = basis(user, ttl, info.as_deref());
            let (meta, device) = (meta.as_deref(), device.as_deref());
            sign_connect(secret, &ConnectToken { basis, meta, device, channels })
        }
        TokenJob::Subscription { user, channel, ttl, info } => {
            let info = raw(info)?;
            let basis = basis(user, ttl, info.as_deref());
            sign_subscribe(secret, &SubscribeToken { basis, channel })
        }
        TokenJob::Check { .. } => return Err("nothing is made by a check".into()),
    };
    made.map_err(|fault| fault.to_string())
}

/// What the token says, as JSON for people.
fn check(client: &ClientSettings, token: &str) -> Result<String, String> {
    let tokens = Tokens::new(client, &[]).map_err(|fault| fault.to_string())?;
    let Some(verifier) = &tokens.verifier else {
        return Err("the configuration has no token key: client.token.hmac_secret and the like".into());
    };
    let told = match told(verifier, token) {
        Err(TokenFault::KeyAwaited) => {
            fetch(&tokens.issuers)?;
            told(verifier, token)
        }
        told => told,
    };
    told.map_err(|fault| fault.to_string())
}

/// Fetches what the issuers publish, once.
fn fetch(issuers: &[Issuer]) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    for issuer in issuers {
        let keys = &issuer.keys;
        keys.take_wanted();
        let set = runtime.block_on(jwks::fetch(issuer));
        keys.publish(set.map_err(|problem| format!("{}: {problem}", keys.url()))?, unix_now_s());
    }
    Ok(())
}

fn told(verifier: &Verifier, token: &str) -> Result<String, TokenFault> {
    let now = unix_now_s();
    let connection = verifier.verify_connect(token, now);
    // One for a subscription may be signed with a key that connections do not have.
    let subscription = verifier.verify_subscribe(token, now);
    let told = match (connection, subscription) {
        (Ok(claims), _) => {
            let subs: Map<String, Value> =
                claims.subs.iter().map(|(channel, grant)| (channel.clone(), grant_json(grant))).collect();
            json!({
                "kind": "connection",
                "user": claims.user,
                "device": claims.device,
                "expires_at": claims.expire_at_s,
                "issued_at": claims.issued_at_s,
                "id": claims.id,
                "info": value(&claims.info),
                "meta": value(&claims.meta),
                "subscriptions": subs,
            })
        }
        (Err(_), Ok(claims)) => json!({
            "kind": "subscription",
            "user": claims.user,
            "channel": claims.channel,
            "client": claims.client,
            "expires_at": claims.expire_at_s,
            "issued_at": claims.issued_at_s,
            "id": claims.id,
            "info": value(&claims.grant.info),
            "data": value(&claims.grant.data),
        }),
        (Err(TokenFault::KeyAwaited), _) | (_, Err(TokenFault::KeyAwaited)) => {
            return Err(TokenFault::KeyAwaited);
        }
        (Err(TokenFault::Invalid(Flaw::NotForConnecting)), Err(fault)) | (Err(fault), Err(_)) => {
            return Err(fault);
        }
    };
    Ok(serde_json::to_string_pretty(&told).unwrap_or_default())
}

fn grant_json(grant: &SubscribeGrant) -> Value {
    json!({ "info": value(&grant.info), "data": value(&grant.data) })
}

fn value(json: &Option<Bytes>) -> Value {
    json.as_ref().and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default()
}

fn unix_now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

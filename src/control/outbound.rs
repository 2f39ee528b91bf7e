//! Requests that this node makes: the HTTP client that hooks, events and key sets share, and bodies read within a bound.
//!
//! What every request of ours has in common: redirects are answers and not followed (a backend is where the
//! configuration says, and its headers are for nobody else), the environment's proxies are not used (who sets
//! `HTTP_PROXY` for other programs does not want hooks to go there), connections are kept and reused.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Client, Response, redirect};

use crate::base::bytes::{Bytes, BytesMut};
use crate::config::Authorities;

/// How long an unused connection is kept. Less than the 5 s after which a Node server closes one: a request that meets
/// the closing is a failed request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a connection may take to be made, name and TLS included, when the request itself may take longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What [`read_body`] makes room for at once, in bytes: a peer that only promises a long body gets no more.
const BODY_BYTES_FIRST: usize = 64 << 10;

/// How one backend is reached.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    /// The URL that requests go to; decides whether the machine's root certificates are needed.
    pub endpoint: &'a str,
    /// Speaks HTTP/2 at once on plain TCP ("prior knowledge"). With TLS both sides agree on it by themselves.
    pub http2: bool,
    /// Whom its certificate must come from; `None`: an authority that this machine trusts.
    pub authorities: Option<&'a Authorities>,
    /// Idle connections that are kept.
    pub idle_max: usize,
}

/// Makes a client with a pool of its own. Requests set their own timeout.
///
/// # Errors
/// When the endpoint is `https`, no authorities are given, and this machine has no root certificates (`SSL_CERT_FILE`
/// can name some).
pub fn client(reach: Reach<'_>) -> reqwest::Result<Client> {
    let provider = rustls::crypto::ring::default_provider();
    let mut builder = Client::builder()
        .user_agent(concat!("trunkline/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(reach.idle_max);
    builder = if reach.endpoint.starts_with("https:") {
        // Fails when a provider is there already, which is as good.
        let _ = provider.install_default();
        match reach.authorities {
            Some(own) => {
                let own = own.certificates().iter().map(|one| Certificate::from_der(one));
                builder.tls_certs_only(own.collect::<Result<Vec<_>, _>>()?)
            }
            None => builder,
        }
    } else {
        // A container without certificates can speak plain HTTP all the same: reading them would end its start.
        let plain = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map(|tls| tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth());
        match plain {
            Ok(plain) => builder.tls_backend_preconfigured(plain),
            // Not with a provider of all versions; and if so, the certificates are read.
            Err(_) => builder,
        }
    };
    if reach.http2 {
        builder = builder.http2_prior_knowledge();
    }
    builder.build()
}

/// Why a body was not read to its end.
#[derive(Debug)]
pub enum BodyFault {
    /// Longer than the bound; the rest was not read and the connection is not used again.
    TooLong,
    /// The peer went away before the end, or broke the protocol.
    Cut(reqwest::Error),
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyFault::TooLong => f.write_str("the body is too long"),
            BodyFault::Cut(error) => write!(f, "the body was cut short: {}", deepest(error)),
        }
    }
}

impl Error for BodyFault {}

/// Reads the body of `response`, at most `bytes_max` bytes of it.
///
/// # Errors
/// [`BodyFault`]. Has no deadline of its own: that of the request covers its body.
pub async fn read_body(response: Response, bytes_max: usize) -> Result<Bytes, BodyFault> {
    read_body_while(response, bytes_max, |_| true).await
}

/// As [`read_body`], and asks before it keeps each further piece of so many bytes; where that is refused, the body is
/// [`BodyFault::TooLong`].
///
/// # Errors
/// As [`read_body`].
pub async fn read_body_while(
    mut response: Response,
    bytes_max: usize,
    mut keep: impl FnMut(usize) -> bool,
) -> Result<Bytes, BodyFault> {
    let told = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    if told > bytes_max {
        return Err(BodyFault::TooLong);
    }
    let Some(first) = response.chunk().await.map_err(BodyFault::Cut)? else { return Ok(Bytes::new()) };
    // Most answers are one piece: nothing is copied then.
    if first.len() == told && keep(first.len()) {
        return Ok(first);
    }
    let mut body = BytesMut::with_capacity(told.max(first.len()).min(BODY_BYTES_FIRST));
    let mut piece = Some(first);
    while let Some(more) = piece {
        if body.len() + more.len() > bytes_max || !keep(more.len()) {
            return Err(BodyFault::TooLong);
        }
        body.extend_from_slice(&more);
        piece = response.chunk().await.map_err(BodyFault::Cut)?;
    }
    Ok(body.freeze())
}

/// What really happened, in the words of the innermost error: the outer errors only say that a request failed.
pub fn deepest(error: &reqwest::Error) -> String {
    let mut deepest: &dyn Error = error;
    let mut source = error.source();
    while let Some(deeper) = source {
        deepest = deeper;
        source = deeper.source();
    }
    deepest.to_string()
}

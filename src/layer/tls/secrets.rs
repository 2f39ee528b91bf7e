//! The traffic secrets of TLS 1.3, which rustls gives to a key log only. They are what a connection needs besides its keys
//! to take the next ones; with them nothing of rustls has to be kept for it.

use std::cell::RefCell;

use rustls::KeyLog;

use crate::layer::tls::keys::TrafficSecret;

/// Those of one connection.
#[derive(Clone, Copy, Default)]
pub struct Secrets {
    pub client: Option<TrafficSecret>,
    pub server: Option<TrafficSecret>,
}

thread_local! {
    /// A handshake's step runs on one thread from its beginning to its end.
    static HEARD: RefCell<Secrets> = const { RefCell::new(Secrets { client: None, server: None }) };
}

/// For [`rustls::ServerConfig::key_log`]. Nothing leaves the process.
#[derive(Debug)]
pub struct Capture;

impl KeyLog for Capture {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        HEARD.with_borrow_mut(|heard| match label {
            "CLIENT_TRAFFIC_SECRET_0" => heard.client = TrafficSecret::new(secret),
            "SERVER_TRAFFIC_SECRET_0" => heard.server = TrafficSecret::new(secret),
            _ => {}
        });
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0")
    }
}

/// Adds to `secrets` what this thread has heard since the last call.
pub fn take(secrets: &mut Secrets) {
    let heard = HEARD.take();
    secrets.client = heard.client.or(secrets.client);
    secrets.server = heard.server.or(secrets.server);
}

//! Tickets of all connections. The server's work is the same whose ticket is shown; so they lie in one pool, and a
//! connection that comes back takes the oldest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

#[derive(Debug)]
pub struct Pool {
    inner: Mutex<Tickets>,
    /// Of each version. One for a connection is what comes back at most.
    tickets_max: usize,
}

#[derive(Debug, Default)]
struct Tickets {
    group: Option<NamedGroup>,
    tls12: VecDeque<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl Pool {
    pub fn new(tickets_max: usize) -> Pool {
        Pool { inner: Mutex::default(), tickets_max }
    }

    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pool for those who come for the first time: they leave tickets, and take none.
#[derive(Debug)]
pub struct Fresh(pub Arc<Pool>);

/// The pool for those who come back.
#[derive(Debug)]
pub struct Returning(pub Arc<Pool>);

impl ClientSessionStore for Returning {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.tickets().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.tickets().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        let mut tickets = self.0.tickets();
        if tickets.tls12.len() < self.0.tickets_max {
            tickets.tls12.push_back(value);
        }
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tickets().tls12.pop_front()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut tickets = self.0.tickets();
        if tickets.tls13.len() < self.0.tickets_max {
            tickets.tls13.push_back(value);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.tickets().tls13.pop_front()
    }
}

impl ClientSessionStore for Fresh {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        Returning(Arc::clone(&self.0)).set_kx_hint(name, group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.tickets().group
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        Returning(Arc::clone(&self.0)).set_tls12_session(name, value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        Returning(Arc::clone(&self.0)).insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}

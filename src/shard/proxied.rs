//! Connections that come by a proxy: the PROXY header before their first byte, and from whom it is taken.

use crate::proto::forwarded;
use crate::proto::http1::RequestHead;
use crate::proto::proxy_protocol::{self, ProxyFault, ProxyHeader};
use crate::shard::core::Core;
use crate::shard::stats::Cause;

/// Fields that say an address, in lower case.
const ADDRESS_FIELDS: [&str; 3] = ["forwarded", "x-forwarded-for", "x-real-ip"];

impl Core {
    /// Whether the peer of a connection is one whose word about others is taken.
    pub fn is_trusted(&self, slot: u32) -> bool {
        let trusted = &self.env.options.trusted;
        match self.links.addresses.peer(slot) {
            Some(address) => trusted.trusts(address),
            None => trusted.trusts_unix() && self.listener(slot).is_unix,
        }
    }

    /// For a new connection by a listener with the PROXY protocol. False when it is a stranger's: the caller closes it.
    pub fn expect_proxy_header(&mut self, slot: u32) -> bool {
        if !self.is_trusted(slot) {
            self.env.stats.fault(Cause::ProxyStranger);
            self.tell_refused(
                slot,
                "proxy_stranger",
                "a connection that should begin with a PROXY header is not of trusted_networks",
            );
            return false;
        }
        if let Some(connection) = self.links.connections.get_mut(slot) {
            connection.link.set_awaits_proxy(true);
        }
        true
    }

    /// Takes input of a connection whose PROXY header is not complete; gives how much of `bytes` is of the header. `None`: it is
    /// not complete yet, or the connection is given up.
    pub fn take_proxy_header(&mut self, slot: u32, bytes: &[u8]) -> Option<usize> {
        let kept = self.links.proxied.remove(&slot);
        let before = kept.as_ref().map_or(0, Vec::len);
        let all = match kept {
            Some(mut kept) => {
                kept.extend_from_slice(bytes);
                Some(kept)
            }
            None => None,
        };
        match proxy_protocol::parse(all.as_deref().unwrap_or(bytes)) {
            Ok(None) => {
                self.links.proxied.insert(slot, all.unwrap_or_else(|| bytes.to_vec()));
                None
            }
            Ok(Some(ProxyHeader { len, client })) => {
                if let Some(connection) = self.links.connections.get_mut(slot) {
                    connection.link.set_awaits_proxy(false);
                }
                if let Some(client) = client {
                    self.links.addresses.insert(slot, client);
                    self.admit_address(slot);
                }
                // What was kept was incomplete: the header ends in what has come now.
                Some(len - before)
            }
            Err(fault) => {
                self.env.stats.fault(match fault {
                    ProxyFault::Missing => Cause::ProxyHeaderMissing,
                    ProxyFault::Malformed | ProxyFault::TooLong => Cause::ProxyHeaderMalformed,
                });
                self.tell_refused(
                    slot,
                    "proxy_header",
                    "a proxy sent no PROXY header, or one that cannot be read",
                );
                self.give_up(slot);
                None
            }
        }
    }

    /// Finds out whom a request is of, by the word of a trusted proxy. From anybody else the field means nothing.
    pub fn note_forwarded(&mut self, slot: u32, head: &RequestHead<'_>) {
        let trusted = &self.env.options.trusted;
        if trusted.is_empty() {
            return;
        }
        if !self.is_trusted(slot) {
            let claims = head.fields().all(trusted.field().name()).next().is_some();
            self.env.stats.counters.address_claims_ignored_total += u64::from(claims);
            return;
        }
        let lines: Vec<&[u8]> = head.fields().all(trusted.field().name()).collect();
        let client = forwarded::client(trusted.field(), lines.into_iter(), |address| trusted.trusts(address));
        self.links.addresses.claim(slot, client);
    }

    /// Whether a field of a request is the word of somebody who may say it. Where proxies are named, what others claim about
    /// addresses goes to no backend.
    pub fn passes_on(&self, slot: u32, name: &str) -> bool {
        !ADDRESS_FIELDS.contains(&name) || self.env.options.trusted.is_empty() || self.is_trusted(slot)
    }

    /// The header of a connection has not come in time.
    pub fn handle_proxy_timer(&mut self, slot: u32) {
        self.env.stats.fault(Cause::ProxyHeaderTimeout);
        self.give_up(slot);
    }

    fn tell_refused(&self, slot: u32, cause: &'static str, what: &'static str) {
        if let Some(control) = &self.env.control {
            control.tell(cause, what, self.links.addresses.peer(slot));
        }
    }
}

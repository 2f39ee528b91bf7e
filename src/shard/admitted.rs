//! What a shard knows of its connections for [admission](crate::base::admission): an entry for each, where something is
//! limited.

use std::collections::HashMap;

use ahash::RandomState;

use crate::base::admission::Refusal;
use crate::base::networks::Network;

/// Entries by slot. Bounded by the connections of the shard.
#[derive(Debug, Default)]
pub struct AdmittedConnections {
    entries: HashMap<u32, AdmittedEntry, RandomState>,
    /// Of these, connections that are heard although they are too many.
    heard: u32,
    /// Of these, connections that were refused and are on their way out.
    refused: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct AdmittedEntry {
    /// The network that it is counted in.
    pub network: Option<Network>,
    pub standing: Standing,
    /// The network is that of the request which is served, from a proxy that sends those of others as well.
    pub of_request: bool,
    /// Its network's rate, and the node's, were charged for it.
    pub connected: bool,
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Counted.
    Unauthenticated,
    /// Counted, and has shown who it is.
    Authenticated,
    /// One too many, not counted: heard, since it may be the API's, and refused if it is a client's.
    Heard(Refusal),
    /// Not counted: belongs to a proxy, between two requests.
    Between,
}

impl AdmittedEntry {
    pub fn new(network: Option<Network>, standing: Standing) -> AdmittedEntry {
        AdmittedEntry { network, standing, of_request: false, connected: false, refused: false }
    }

    /// As what it is counted; `None` if it is not.
    pub fn counted(&self) -> Option<Counted> {
        let unauthenticated = match self.standing {
            Standing::Unauthenticated => true,
            Standing::Authenticated => false,
            Standing::Heard(_) | Standing::Between => return None,
        };
        Some(Counted { network: self.network, unauthenticated })
    }
}

/// What [`Admission`](crate::base::admission::Admission) has counted of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    pub network: Option<Network>,
    pub unauthenticated: bool,
}

impl AdmittedConnections {
    pub fn insert(&mut self, slot: u32, entry: AdmittedEntry) {
        self.remove(slot);
        self.heard += u32::from(matches!(entry.standing, Standing::Heard(_)));
        self.entries.insert(slot, entry);
    }

    pub fn get(&self, slot: u32) -> Option<&AdmittedEntry> {
        self.entries.get(&slot)
    }

    pub fn remove(&mut self, slot: u32) -> Option<AdmittedEntry> {
        let entry = self.entries.remove(&slot)?;
        self.heard -= u32::from(matches!(entry.standing, Standing::Heard(_)));
        self.refused -= u32::from(entry.refused);
        if self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
        Some(entry)
    }

    /// Its first command has come. Gives the network that it is counted in, if it was counted as one without.
    pub fn authenticate(&mut self, slot: u32) -> Option<Option<Network>> {
        let entry = self.entries.get_mut(&slot)?;
        if entry.standing != Standing::Unauthenticated {
            return None;
        }
        entry.standing = Standing::Authenticated;
        Some(entry.network)
    }

    pub fn set_connected(&mut self, slot: u32) {
        if let Some(entry) = self.entries.get_mut(&slot) {
            entry.connected = true;
        }
    }

    /// Its request is answered, and the next one may be that of another client. Gives what it is counted as no more.
    pub fn release(&mut self, slot: u32) -> Option<Counted> {
        let entry = self.entries.get_mut(&slot).filter(|entry| entry.of_request)?;
        let counted = entry.counted();
        entry.standing = Standing::Between;
        counted
    }

    /// It is refused, and on its way out.
    pub fn set_refused(&mut self, slot: u32) {
        if let Some(entry) = self.entries.get_mut(&slot)
            && !entry.refused
        {
            entry.refused = true;
            self.refused += 1;
        }
    }

    pub fn heard(&self) -> u32 {
        self.heard
    }

    pub fn refused(&self) -> u32 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_entries() {
        let mut admitted = AdmittedConnections::default();
        admitted.insert(1, AdmittedEntry::new(None, Standing::Heard(Refusal::NodeUnauthenticated)));
        admitted.insert(2, AdmittedEntry::new(None, Standing::Unauthenticated));
        assert_eq!((admitted.heard(), admitted.refused()), (1, 0));
        admitted.set_refused(1);
        admitted.set_refused(1);
        admitted.set_refused(3);
        assert_eq!((admitted.heard(), admitted.refused()), (1, 1));
        admitted.insert(1, AdmittedEntry::new(None, Standing::Unauthenticated));
        assert_eq!((admitted.heard(), admitted.refused()), (0, 0));
        assert!(admitted.remove(1).is_some() && admitted.remove(1).is_none());
    }

    #[test]
    fn a_connection_authenticates_once() {
        let mut admitted = AdmittedConnections::default();
        admitted.insert(1, AdmittedEntry::new(None, Standing::Unauthenticated));
        let counted = |admitted: &AdmittedConnections| admitted.get(1).unwrap().counted();
        assert_eq!(counted(&admitted), Some(Counted { network: None, unauthenticated: true }));
        assert_eq!(admitted.authenticate(1), Some(None));
        assert_eq!(admitted.authenticate(1), None);
        assert_eq!(counted(&admitted), Some(Counted { network: None, unauthenticated: false }));
        assert_eq!(admitted.authenticate(2), None);
    }

    #[test]
    fn only_a_proxys_connection_is_released_and_once() {
        let mut admitted = AdmittedConnections::default();
        admitted.insert(1, AdmittedEntry::new(None, Standing::Unauthenticated));
        admitted.insert(
            2,
            AdmittedEntry { of_request: true, ..AdmittedEntry::new(None, Standing::Authenticated) },
        );
        assert_eq!(admitted.release(1), None);
        assert_eq!(admitted.release(2), Some(Counted { network: None, unauthenticated: false }));
        assert_eq!(admitted.release(2), None);
        assert_eq!(admitted.remove(2).unwrap().counted(), None);
    }
}

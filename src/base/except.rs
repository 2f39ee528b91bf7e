//! Who a publication or a message is kept from.
//!
//! Kept with the publication, so that it holds wherever that is read: in a recovery, in a catch-up, in a log.

use crate::base::ids::{ClientId, UserName};

/// Longest tag that a client names itself by, in bytes: a UUID or a short name.
pub const ORIGIN_BYTES_MAX: usize = 64;

/// Each that is named is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Except {
    pub client: Option<ClientId>,
    pub user: Option<UserName>,
    /// The tag that a client has named when it connected.
    pub origin: Option<Box<str>>,
}

impl Except {
    pub fn client(client: ClientId) -> Except {
        Except { client: Some(client), ..Except::default() }
    }

    pub fn is_nobody(&self) -> bool {
        *self == Except::default()
    }

    /// Whether it names somebody; an id is made only if one is named.
    pub fn covers(
        &self,
        user: Option<&str>,
        origin: Option<&str>,
        client: impl FnOnce() -> ClientId,
    ) -> bool {
        // Who has no user or no tag is not the one with an empty one.
        let same = |named: Option<&str>, own: Option<&str>| named.is_some() && named == own;
        same(self.user.as_deref(), user)
            || same(self.origin.as_deref(), origin)
            || self.client.is_some_and(|named| named == client())
    }

    /// Bytes of its texts.
    pub fn weight(&self) -> usize {
        self.user.as_ref().map_or(0, |user| user.len())
            + self.origin.as_ref().map_or(0, |origin| origin.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_are_covered_and_nobody_else() {
        let covers = |except: &Except, user, origin, client| except.covers(user, origin, || ClientId(client));
        let ann = Except { user: Some("ann".into()), ..Except::default() };
        assert!(covers(&ann, Some("ann"), None, 1) && !covers(&ann, Some("bob"), Some("ann"), 1));
        let tab = Except { origin: Some("tab".into()), ..Except::default() };
        assert!(covers(&tab, Some("ann"), Some("tab"), 1) && !covers(&tab, Some("tab"), None, 1));
        let one = Except::client(ClientId(7));
        assert!(covers(&one, None, None, 7) && !covers(&one, None, None, 8));
        // Each for itself.
        let all = Except { client: Some(ClientId(7)), user: Some("ann".into()), origin: Some("tab".into()) };
        for (user, origin, client) in [(Some("ann"), None, 1), (None, Some("tab"), 1), (None, None, 7)] {
            assert!(covers(&all, user, origin, client));
        }
        assert!(!covers(&all, None, None, 1) && !covers(&Except::default(), None, None, 0));
        assert!(Except::default().is_nobody() && !one.is_nobody());
    }
}

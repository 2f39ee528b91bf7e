//! What a namespace lets clients do. [`PERMISSIONS`] is the one place where a permission is named, documented and given
//! its default: configuration, its documentation, and what is asked here are readings of it.

/// What a client does in a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Subscribe,
    Publish,
    ReadHistory,
    ReadPresence,
}

/// Whom a permission is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grantee {
    Client,
    /// A client while it is subscribed to the channel.
    Subscriber,
    /// A client without a user, who needs this beside the other two.
    Anonymous,
}

/// A row of the table.
#[derive(Debug)]
pub struct Permission {
    /// As the configuration calls it.
    pub key: &'static str,
    pub doc: &'static str,
    pub deed: Deed,
    pub who: Grantee,
}

const fn row(key: &'static str, deed: Deed, who: Grantee, doc: &'static str) -> Permission {
    Permission { key, doc, deed, who }
}

pub const PERMISSIONS: [Permission; 11] = [
    row(
        "allow_subscribe_for_client",
        Deed::Subscribe,
        Grantee::Client,
        "Clients may subscribe without a subscription token.",
    ),
    row("allow_publish_for_client", Deed::Publish, Grantee::Client, "Clients may publish."),
    row(
        "allow_publish_for_subscriber",
        Deed::Publish,
        Grantee::Subscriber,
        "Clients may publish while subscribed.",
    ),
    row(
        "allow_history_for_subscriber",
        Deed::ReadHistory,
        Grantee::Subscriber,
        "Clients may read history while subscribed.",
    ),
    row("allow_history_for_client", Deed::ReadHistory, Grantee::Client, "Clients may read history."),
    row(
        "allow_presence_for_subscriber",
        Deed::ReadPresence,
        Grantee::Subscriber,
        "Clients may read presence while subscribed.",
    ),
    row("allow_presence_for_client", Deed::ReadPresence, Grantee::Client, "Clients may read presence."),
    row(
        "allow_subscribe_for_anonymous",
        Deed::Subscribe,
        Grantee::Anonymous,
        "Clients without a user may subscribe where `allow_subscribe_for_client` lets clients. Unset: as\n\
         `client.allow_anonymous` says. What a token, a hook or the API grants does not depend on it.",
    ),
    row(
        "allow_publish_for_anonymous",
        Deed::Publish,
        Grantee::Anonymous,
        "Clients without a user may publish where clients, or subscribers, may. Unset: as `client.allow_anonymous` says.",
    ),
    row(
        "allow_history_for_anonymous",
        Deed::ReadHistory,
        Grantee::Anonymous,
        "The same for reading history.",
    ),
    row(
        "allow_presence_for_anonymous",
        Deed::ReadPresence,
        Grantee::Anonymous,
        "The same for reading presence.",
    ),
];

impl Permission {
    /// What holds where nothing is configured; `None`: as the node lets in clients without a token.
    pub fn default(&self) -> Option<bool> {
        (self.who != Grantee::Anonymous).then_some(false)
    }

    /// The key of the permission.
    ///
    /// # Panics
    /// When there is no such permission.
    pub fn key_of(deed: Deed, who: Grantee) -> &'static str {
        PERMISSIONS[place(deed, who).expect("a permission of the table")].key
    }
}

fn place(deed: Deed, who: Grantee) -> Option<usize> {
    PERMISSIONS.iter().position(|permission| permission.deed == deed && permission.who == who)
}

/// What holds of each of [`PERMISSIONS`]; `None`: it is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions([Option<bool>; PERMISSIONS.len()]);

impl Default for Permissions {
    fn default() -> Permissions {
        Permissions(std::array::from_fn(|at| PERMISSIONS[at].default()))
    }
}

impl Permissions {
    /// Everything is permitted to everybody.
    pub const ALL: Permissions = Permissions([Some(true); PERMISSIONS.len()]);

    /// Of the permission in this row of the table.
    pub fn row(&self, at: usize) -> Option<bool> {
        self.0[at]
    }

    pub fn set_row(&mut self, at: usize, to: Option<bool>) {
        self.0[at] = to;
    }

    /// What the table has no row for is not permitted.
    pub fn allows(&self, deed: Deed, who: Grantee) -> bool {
        place(deed, who).and_then(|at| self.0[at]).unwrap_or(false)
    }

    pub fn set(&mut self, deed: Deed, who: Grantee, to: bool) {
        if let Some(at) = place(deed, who) {
            self.0[at] = Some(to);
        }
    }

    /// The same with one more permission, or one less.
    pub fn with(mut self, deed: Deed, who: Grantee, to: bool) -> Permissions {
        self.set(deed, who, to);
        self
    }

    /// What is not said is `open`.
    pub fn settled(self, open: bool) -> Permissions {
        Permissions(self.0.map(|said| Some(said.unwrap_or(open))))
    }

    /// What is left for a client without a user.
    pub fn of_anonymous(self) -> Permissions {
        self.each(|deed, said| said && self.allows(deed, Grantee::Anonymous))
    }

    /// The rights of all clients become rights of subscribers.
    pub fn for_subscribers_alone(mut self) -> Permissions {
        for deed in PERMISSIONS.iter().map(|permission| permission.deed) {
            if self.allows(deed, Grantee::Client) {
                self.set(deed, Grantee::Subscriber, true);
            }
        }
        self.without_clients()
    }

    /// Nothing is permitted to those who are not subscribed.
    pub fn without_clients(mut self) -> Permissions {
        for (permission, said) in PERMISSIONS.iter().zip(&mut self.0) {
            if permission.who == Grantee::Client {
                *said = Some(false);
            }
        }
        self
    }

    fn each(self, f: impl Fn(Deed, bool) -> bool) -> Permissions {
        Permissions(std::array::from_fn(|at| Some(f(PERMISSIONS[at].deed, self.0[at].unwrap_or(false)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_permission_of_its_own() {
        for (at, permission) in PERMISSIONS.iter().enumerate() {
            let Permission { key, deed, who, .. } = *permission;
            assert_eq!(place(deed, who), Some(at), "{key} is there twice");
            let only = Permissions([Some(false); PERMISSIONS.len()]).with(deed, who, true);
            for other in &PERMISSIONS {
                assert_eq!(only.allows(other.deed, other.who), other.key == key, "{key}: {}", other.key);
            }
            assert_eq!(only.row(at), Some(true));
            let mut none = only;
            none.set_row(at, None);
            assert_eq!((none.settled(true), none.settled(false).allows(deed, who)), (only, false));
        }
    }

    #[test]
    fn what_is_left_follows_from_the_table() {
        let all = Permissions::ALL;
        for Permission { deed, who, key, .. } in &PERMISSIONS {
            let closed = all.with(*deed, Grantee::Anonymous, false).of_anonymous();
            assert!(!closed.allows(*deed, *who), "{key}");
            assert_eq!(all.without_clients().allows(*deed, *who), *who != Grantee::Client, "{key}");
        }
        let outside =
            Permissions::default().with(Deed::Publish, Grantee::Client, true).for_subscribers_alone();
        assert!(
            !outside.allows(Deed::Publish, Grantee::Client)
                && outside.allows(Deed::Publish, Grantee::Subscriber)
        );
        assert!(!outside.allows(Deed::ReadHistory, Grantee::Subscriber));
    }
}

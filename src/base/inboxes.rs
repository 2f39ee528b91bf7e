//! Inboxes of users, and devices: which channel is whose inbox, and what a device's name says.

use std::fmt::Write as _;

use crate::base::ids::ChannelName;

/// Most bytes of a device's name.
pub const DEVICE_BYTES_MAX: usize = 64;

/// Ends the class in a device's name.
const CLASS_END: char = ':';

/// The channels that are users' inboxes: `inbox:#ann` is Ann's in the namespace `inbox`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inboxes {
    /// What their names begin with, the user following.
    prefix: Box<str>,
}

impl Inboxes {
    pub fn new(namespace: &str) -> Inboxes {
        Inboxes { prefix: format!("{namespace}:#").into() }
    }

    /// The inbox of a user.
    pub fn of(&self, user: &str) -> ChannelName {
        let mut name = String::with_capacity(self.prefix.len() + user.len());
        let _ = write!(name, "{}{user}", self.prefix);
        name.into()
    }

    /// Whether the channel is the user's inbox.
    pub fn is_of(&self, channel: &str, user: &str) -> bool {
        !user.is_empty() && channel.strip_prefix(&*self.prefix) == Some(user)
    }
}

/// What kind of device it is: its name up to the first colon (`phone` of `phone:7c9e` and of `phone`).
pub fn device_class(device: &str) -> &str {
    device.split_once(CLASS_END).map_or(device, |(class, _)| class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_is_one_users_alone() {
        let inboxes = Inboxes::new("inbox");
        assert_eq!(&*inboxes.of("ann"), "inbox:#ann");
        assert!(inboxes.is_of("inbox:#ann", "ann"));
        for (channel, user) in
            [("inbox:#ann", "an"), ("inbox:#an", "ann"), ("inbox:#", ""), ("box:#ann", "ann")]
        {
            assert!(!inboxes.is_of(channel, user), "{channel} {user}");
        }
    }

    #[test]
    fn a_class_ends_at_the_first_colon() {
        for (device, class) in [("phone", "phone"), ("phone:a:b", "phone"), (":a", ""), ("", "")] {
            assert_eq!(device_class(device), class);
        }
    }
}

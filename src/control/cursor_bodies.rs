//! What the server API answers about cursors, as JSON has it.

use std::collections::BTreeMap;

use serde::Serialize;

/// The `result` of an answer.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum CursorsAnswer {
    Cursors {
        cursors: Vec<CursorBody>,
        /// Where the log ends.
        offset: u64,
        /// Empty: nothing is known of the channel.
        epoch: String,
        /// `null` with the last page.
        cursor: Option<String>,
    },
    Unread {
        /// By channel.
        unread: BTreeMap<String, UnreadEntry>,
        /// Of all channels.
        total: u64,
    },
    Users {
        users: Vec<String>,
        /// Of all pages.
        total: usize,
        /// `null` with the last page.
        cursor: Option<String>,
    },
    Changed {
        added: usize,
        removed: usize,
    },
}

#[derive(Debug, Serialize)]
pub struct CursorBody {
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    pub received: u64,
    pub read: u64,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum UnreadEntry {
    Known { unread: u64, read: u64, offset: u64 },
    Wrong { error: UnreadError },
}

#[derive(Debug, Serialize)]
pub struct UnreadError {
    pub code: u16,
    pub message: &'static str,
}

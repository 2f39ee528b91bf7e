//! One pinned thread: its connections, its channels, and the tick that serves them.

pub mod ask;
pub mod mailbox;
pub mod router;

//! How the configuration is read again, as far as the control plane knows.

use std::sync::Arc;

use tokio::sync::oneshot;

/// What came of reading the configuration again: what changed, or what is wrong and left everything as it was.
pub type ReloadOutcome = Result<Vec<String>, Vec<String>>;

/// Where the outcome goes.
pub type Told = oneshot::Sender<ReloadOutcome>;

/// Has the node read its configuration again. False when it cannot now: it ends.
pub type Reload = Arc<dyn Fn(Told) -> bool + Send + Sync>;

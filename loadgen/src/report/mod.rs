//! Results for people and machines.
//!
//! Inputs: a [`RunResult`](crate::run::RunResult) and the floor's beside it. Outputs: a table, JSON, HdrHistogram logs,
//! one HTML page. Must not know: how anything was measured.

mod figures;
mod hdr;
mod html;
mod json;
mod progress;
mod table;

pub use self::figures::{Figure, figures};
pub use self::hdr::HdrLog;
pub use self::html::html;
pub use self::json::json;
pub use self::progress::Bar;
pub use self::table::text;

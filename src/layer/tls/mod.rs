//! TLS 1.2 and 1.3, the server's side: [`rustls`] for the handshake, an own record layer behind it.
//!
//! Inputs: certificates with their keys, whole. Outputs: [layers](crate::layer::Layer). Must not know: files of the configuration,
//! sockets.
//!
//! ```text
//!  Handshake ──agreed──▶ Established ──close_notify, a fatal alert──▶ silent
//!      └── failed: the reason is said, nothing else ──▶ Failed
//! ```
//!
//! # What a connection keeps
//! rustls needs 3 to 8 KB for a connection. Here an established one keeps two [keys](keys::RecordKey) with their sequence numbers
//! and traffic secrets, some 280 bytes, and a buffer only while a record is incomplete. These are also all that another
//! process would need to go on with it.
//!
//! # No record twice
//! A nonce is a sequence number: what was sealed is [sent again as it is](crate::layer::Sealed), never sealed again.

pub mod certificates;
mod connection;
mod established;
mod handshake;
mod keys;
mod record;
mod secrets;
mod settings;
#[cfg(test)]
pub mod tests;

pub use self::connection::Tls;
pub use self::handshake::HANDSHAKE_BYTES_MAX;
pub use self::record::TlsVersion;
pub use self::settings::{ClientCertificates, EXPIRY_WARNING, TlsMaker, TlsOptions};

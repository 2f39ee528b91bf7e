//! What `X-Trunkline-Signature` holds: `t=SECONDS,v1=HEX`, by which a backend knows that a request is this node's and
//! is not an old one sent again.
//!
//! `HEX` is the HMAC-SHA256 (RFC 2104, FIPS 180-4) in lower-case hexadecimal, keyed with the secret's bytes, of
//! `SECONDS`, a full stop, and the body's bytes. `SECONDS` is the unix time at which this attempt was sent. Further parts
//! may follow behind a comma some day: take `t` and `v1` by their names.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// The name of the field, in lower case.
pub const SIGNATURE: &str = "x-trunkline-signature";

/// Signs `body` for being sent at `unix_s`.
pub fn sign(secret: &[u8], unix_s: u64, body: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(unix_s.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let mut signature = format!("t={unix_s},v1=");
    for byte in mac.finalize().into_bytes() {
        // Writing to a String cannot fail.
        let _ = write!(signature, "{byte:02x}");
    }
    signature
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of Python's `hmac.new(b"secret", b'1700000000.{"events":[]}', "sha256").hexdigest()`.
    #[test]
    fn the_signature_is_that_of_other_implementations() {
        assert_eq!(
            sign(b"secret", 1_700_000_000, br#"{"events":[]}"#),
            "t=1700000000,v1=3947de27ec923573170fccda604ddfb25583ff98dc51e96cca2e11c59545026a"
        );
    }
}

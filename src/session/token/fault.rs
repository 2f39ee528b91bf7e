//! Why a token is refused, by name.

use std::fmt;

use crate::base::fault::{Disconnect, ErrorCode};

/// Why a token is refused. What goes out for it, see [`TokenFault::of_connection`] and the like: an unmodified client
/// must come back from everything but a token that is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// Not ours, malformed or made for somebody else.
    Invalid(Flaw),
    Expired,
    /// Its `expire_at` has passed: what it grants has ended.
    Over,
    /// Before its `nbf`. The published server calls it expired, and so does the wire.
    NotYetValid,
    /// Signed with a key that may be among those that the issuer publishes: they are being fetched.
    KeyAwaited,
}

macro_rules! flaws {
    ($($flaw:ident $cause:literal $text:literal)+) => {
        /// What is wrong with a token that is not valid.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Flaw { $(#[doc = $text] $flaw),+ }

        impl Flaw {
            /// For people; says nothing of what the token holds.
            pub const fn text(self) -> &'static str {
                match self { $(Flaw::$flaw => $text),+ }
            }
        }

        impl TokenFault {
            /// Every fault, for counting.
            pub const ALL: &[TokenFault] = &[
                TokenFault::Expired,
                TokenFault::Over,
                TokenFault::NotYetValid,
                TokenFault::KeyAwaited,
                $(TokenFault::Invalid(Flaw::$flaw)),+
            ];

            /// The name under which it is counted and logged.
            pub const fn cause(self) -> &'static str {
                match self {
                    TokenFault::Expired => "token_expired",
                    TokenFault::Over => "token_over",
                    TokenFault::NotYetValid => "token_not_yet_valid",
                    TokenFault::KeyAwaited => "token_key_awaited",
                    $(TokenFault::Invalid(Flaw::$flaw) => $cause),+
                }
            }
        }
    };
}

flaws! {
    Empty "token_empty" "the token is empty"
    TooLong "token_too_long" "the token is longer than 8 KiB"
    Malformed "token_malformed" "not a token: it must be three parts joined by dots"
    Encoding "token_encoding" "a part of the token is not base64url"
    Contents "token_contents" "header or claims of the token are not what they should be"
    Unsigned "token_unsigned" "the token is not signed (alg none)"
    Algorithm "token_algorithm" "the token's algorithm is not taken here"
    Critical "token_critical_extension" "the token needs an extension that is not understood (crit)"
    NoKey "token_no_key" "no key is configured for the token's algorithm"
    KeyUnknown "token_key_unknown" "the token's key (kid) is not among those that the issuer publishes"
    KeyUnnamed "token_key_unnamed" "the token does not say which of the published keys it is signed with (kid)"
    KeyNameTooLong "token_key_name_too_long" "the name of the token's key (kid) is longer than 256 bytes"
    KeyMisfit "token_key_misfit" "the token's algorithm is not one of its key's"
    Signature "token_signature" "the token's signature does not match"
    Audience "token_audience" "the token is made for another audience"
    Issuer "token_issuer" "the token is made by another issuer"
    NoUser "token_no_user" "the token names no user, and one is required"
    NotForConnecting "token_not_for_connecting" "a subscription token is not a connection token"
    NoChannel "token_no_channel" "a subscription token needs a channel"
    Grant "token_grant" "the token grants what this daemon does not have (caps, allow), or its server_tags_filter is no filter"
    Device "token_device" "the token's device is no text of at most 64 bytes"
    OtherUser "token_other_user" "the token is of another user than the connection"
    OtherChannel "token_other_channel" "the token is for another channel"
    OtherClient "token_other_client" "the token is for another client"
    Base64 "token_b64" "b64info or b64data of the token is not base64"
    Revoked "token_revoked" "the token was revoked"
    NotJson "token_b64_not_json" "b64info or b64data of the token does not hold JSON"
}

impl From<Flaw> for TokenFault {
    fn from(flaw: Flaw) -> TokenFault {
        TokenFault::Invalid(flaw)
    }
}

impl TokenFault {
    /// What a `connect` with such a token gets: an error reply or the end of the connection. After 109 an SDK asks its
    /// application for another token, after a temporary error it comes back with the same.
    pub fn of_connection(self) -> Result<ErrorCode, Disconnect> {
        match self {
            TokenFault::Invalid(_) => Err(Disconnect::INVALID_TOKEN),
            TokenFault::Expired | TokenFault::Over => Ok(ErrorCode::TokenExpired),
            TokenFault::NotYetValid | TokenFault::KeyAwaited => Ok(ErrorCode::Internal),
        }
    }

    /// What a `refresh` with such a token gets. An error that is not temporary would end an SDK for good: one with a token
    /// that has expired is closed, comes back and gets another one.
    pub fn of_refresh(self) -> Result<ErrorCode, Disconnect> {
        match self {
            TokenFault::Expired | TokenFault::Over => Err(Disconnect::EXPIRED),
            _ => self.of_connection(),
        }
    }

    /// What a `subscribe` with such a token gets.
    pub fn of_subscription(self) -> ErrorCode {
        match self {
            TokenFault::Invalid(_) => ErrorCode::PermissionDenied,
            TokenFault::Expired | TokenFault::Over => ErrorCode::TokenExpired,
            TokenFault::NotYetValid | TokenFault::KeyAwaited => ErrorCode::Internal,
        }
    }

    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            TokenFault::Invalid(flaw) => flaw.text(),
            TokenFault::Expired => "the token has expired",
            TokenFault::Over => "what the token grants has ended (expire_at)",
            TokenFault::NotYetValid => "the token is not valid yet (nbf)",
            TokenFault::KeyAwaited => "the key of the token is being fetched: try again",
        }
    }
}

impl fmt::Display for TokenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for TokenFault {}

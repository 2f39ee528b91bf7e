//! A client of the protocol that only listens: its connect is answered by a push, or the connection ends.

use crate::base::fault::Disconnect;
use crate::proto::centrifuge::ErrorRef;
use crate::session::state::Session;

impl Session {
    /// It gets no error replies: the code that its connection is closed with. What it was refused with is kept for a
    /// response that has not begun.
    pub(super) fn turned_away(&mut self, error: &ErrorRef<'_>) -> Disconnect {
        if let Some(opening) = self.extras.as_mut().and_then(|extras| extras.opening.as_mut()) {
            opening.refused = Some(error.code);
        }
        disconnect_of(error)
    }
}

/// The end that says as much as the error. What may pass leads to a code after which clients come back.
fn disconnect_of(error: &ErrorRef<'_>) -> Disconnect {
    match error.code {
        101 => Disconnect::INVALID_TOKEN,
        106 => Disconnect::CHANNEL_LIMIT,
        107 => Disconnect::BAD_REQUEST,
        // With another token it may be let in.
        109 | 110 => Disconnect::EXPIRED,
        111 => Disconnect::TOO_MANY_REQUESTS,
        102..=199 => Disconnect::PERMISSION_DENIED,
        100 => Disconnect::SERVER_ERROR,
        // The backend's own.
        _ => {
            let known =
                if error.temporary { Disconnect::SERVER_ERROR } else { Disconnect::PERMISSION_DENIED };
            Disconnect { reason: error.message.to_owned().into(), ..known }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::fault::ErrorCode;

    #[test]
    fn what_may_pass_brings_the_client_back() {
        for (error_code, code, comes_back) in [
            (ErrorCode::Internal, 3004, true),
            (ErrorCode::TooManyRequests, 3013, true),
            (ErrorCode::TokenExpired, 3005, true),
            (ErrorCode::Unauthorized, 3500, false),
            (ErrorCode::PermissionDenied, 3507, false),
            (ErrorCode::BadRequest, 3501, false),
            (ErrorCode::LimitExceeded, 3505, false),
        ] {
            let disconnect = disconnect_of(&error_code.into());
            assert_eq!((disconnect.code, disconnect.reconnects()), (code, comes_back), "{error_code}");
        }
        for (temporary, code) in [(true, 3004), (false, 3507)] {
            let disconnect = disconnect_of(&ErrorRef { code: 1403, message: "no seat", temporary });
            assert_eq!((disconnect.code, &*disconnect.reason), (code, "no seat"));
        }
    }
}

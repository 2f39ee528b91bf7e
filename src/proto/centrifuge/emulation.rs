//! Commands of a client whose connection takes none: by a request of their own.

use std::borrow::Cow;

use super::command::CommandFault;
use super::frame::Format;
use super::json::{self, Scanner};
use super::protobuf;

/// What the body of such a request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmulationRequest<'a> {
    /// As the connect's reply gave it: the id of the node that has the client.
    pub node: Cow<'a, str>,
    /// As the connect's reply gave it.
    pub session: Cow<'a, str>,
    /// A frame of commands, see [`super::decode_frame`].
    pub commands: Cow<'a, [u8]>,
}

/// Reads the whole of a body.
///
/// # Errors
/// What is no such request. The connection that it is for is not touched.
pub fn decode_emulation(format: Format, body: &[u8]) -> Result<EmulationRequest<'_>, CommandFault> {
    match format {
        Format::Json => {
            let text = std::str::from_utf8(body).map_err(|_| CommandFault("the body is not UTF-8"))?;
            let mut scanner = Scanner::new(text);
            if scanner.at_end() {
                return Err(CommandFault("the body is empty"));
            }
            let (node, session, data) = json::emulation(&mut scanner)?;
            let commands = match data {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            };
            Ok(EmulationRequest { node, session, commands })
        }
        Format::Protobuf => {
            let (node, session, data) = protobuf::emulation(body)?;
            Ok(EmulationRequest { node, session, commands: data.into() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_in_both_formats() {
        let body = br#" {"node":"n","session":"s","data":"{\"id\":1}\n{}"} "#;
        let read = decode_emulation(Format::Json, body).unwrap();
        assert_eq!((&*read.session, &*read.commands), ("s", &b"{\"id\":1}\n{}"[..]));
        assert_eq!(read.node, "n");
        let body = b"\x0a\x01n\x12\x01s\x1a\x02\x01\x00";
        let read = decode_emulation(Format::Protobuf, body).unwrap();
        assert_eq!((&*read.session, &*read.commands), ("s", &[1u8, 0][..]));
        assert_eq!(read.node, "n");
        assert_eq!(decode_emulation(Format::Json, b"{}").unwrap().session, "");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for body in [
            &b""[..],
            b"[]",
            b"{",
            b"null",
            br#"{"session":"s"}{"session":"t"}"#,
            br#"{"session":"s","session":"t"}"#,
            br#"{"node":"n","node":"m"}"#,
            br#"{"session":7}"#,
            br#"{"session":"s","data":{"id":1}}"#,
            b"{\"session\":\"\xff\"}",
        ] {
            assert!(decode_emulation(Format::Json, body).is_err(), "{}", String::from_utf8_lossy(body));
        }
        for body in [&b"\x12"[..], b"\x12\x05s", b"\x12\x01s\x12\x01t", b"\x10\x01", b"\x12\x01\xff"] {
            assert!(decode_emulation(Format::Protobuf, body).is_err(), "{body:?}");
        }
    }
}

//! What stands between the bytes of a socket and a protocol: nothing, or a [`Layer`] that seals and opens them, like TLS.
//!
//! Inputs: bytes of the socket, plain bytes of the protocol. Outputs: plain bytes, sealed bytes. Must not know: sockets,
//! drivers, protocols.
//!
//! A plain connection has no layer: its bytes are what they are, at the price of one bit that is looked at. A sealed one has
//! an object of its own, made by the [`LayerMaker`] of the listener that it came by.
//!
//! # What is counted in what
//! Plain bytes become [`Sealed`] ones in the moment in which they leave, once, and never again: a record has its number, and
//! its bytes may not change. So whatever the driver counts (what a send took, what it left) is in sealed bytes; what a
//! connection is owed is in sealed bytes as far as the kernel has refused them, and in plain ones behind that. A cursor in a
//! channel's stream counts items, which are sealed when they are sent.
//!
//! # The life of a layer
//! It begins with a handshake unless it [is ready](Layer::is_ready) at once. What of that takes long is done in
//! [steps](Layer::step), when the shard has time for one: those that are connected do not wait behind a storm of new ones.

mod fault;
pub mod tls;

use std::sync::Arc;

use crate::base::bytes::{Bytes, BytesMut};
use crate::base::certificate::ClientCertificate;
use crate::record::LayerRecord;

pub use self::fault::Fault;

/// One connection's sealing. Sans-IO: the caller moves the bytes.
///
/// The order of calls is that of the stream: what [`Layer::seal`] has given leaves before what it gives next, and `open` is
/// fed with what came, in order and without a gap.
pub trait Layer: Send {
    /// Takes bytes of the socket, and gives the next plain ones, which stand in `bytes` itself or, when a record came in
    /// pieces, in memory of the layer's. Must consume something unless it reports an end; half a record is kept.
    ///
    /// After an end or a fault nothing plain comes any more: whatever is given is consumed.
    fn open<'a>(&'a mut self, bytes: &'a mut [u8]) -> (usize, OpenedBytes<'a>);

    /// The last plain bytes are not looked at any more, and no more bytes are at hand: memory of theirs is given back.
    fn release(&mut self) {}

    /// Appends to `sealed` what this layer itself has to say (a handshake, a key, an alert), then `plain` in order, and, with
    /// `last`, that nothing follows. `last` comes again while the connection closes, with no plain bytes: it is said once.
    fn seal(&mut self, plain: &[Bytes], last: bool, sealed: &mut BytesMut);

    /// It has something to say by itself: the next `seal` should not wait for plain bytes.
    fn wants_to_speak(&self) -> bool;

    /// The handshake is over: plain bytes are sealed. Before that there is nothing to say to the peer; plain bytes are
    /// dropped.
    fn is_ready(&self) -> bool {
        true
    }

    /// What came asks for work that takes long, up to a millisecond. Said once for each step.
    fn wants_step(&mut self) -> Option<StepKind> {
        None
    }

    /// Does it. Asked for again when more has come.
    fn step(&mut self) -> LayerStep {
        LayerStep::Nothing
    }

    /// What the next process needs to go on with it; `None` in its handshake, and for a layer that cannot be moved.
    fn to_record(&self) -> Option<LayerRecord> {
        None
    }

    /// Memory for what is incomplete. Bound: the implementation's longest record.
    fn stored_bytes(&self) -> usize;
}

/// What bytes of a socket came to.
#[derive(Debug, PartialEq, Eq)]
pub enum OpenedBytes<'a> {
    /// Never empty. Writable, so that masks can be taken off in place.
    Plain(&'a mut [u8]),
    /// More is needed, or it was for the layer itself.
    Nothing,
    /// The peer has said that nothing follows.
    End,
    /// What came cannot be understood: the connection is to be closed, once the layer has said why.
    Fault(Fault),
}

/// Which step of a handshake is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// Its first. Nothing has been put into it yet.
    First,
    Further,
}

/// What a step came to.
#[derive(Debug, PartialEq, Eq)]
pub enum LayerStep {
    /// More is needed.
    Nothing,
    /// The layer is ready.
    Ready {
        /// The peer has shown a ticket of an earlier connection.
        resumed: bool,
        /// Who the peer has proven to be.
        certificate: Option<Arc<ClientCertificate>>,
        /// Bytes of the socket that came behind the handshake: to be opened next.
        rest: Vec<u8>,
    },
    /// As [`OpenedBytes::Fault`].
    Fault(Fault),
}

/// Makes the layers of a listener's connections. Shared by all shards.
pub trait LayerMaker: Send + Sync {
    fn make(&self) -> Box<dyn Layer>;

    /// A layer of another process; `None` for what none is.
    fn restore(&self, record: &LayerRecord) -> Option<Box<dyn Layer>> {
        let _ = record;
        None
    }
}

/// Bytes as they go to the socket. Sealed once: what of them is not taken is sent again as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed(Bytes);

impl Sealed {
    /// For what a [`Layer`] gave.
    pub fn new(bytes: Bytes) -> Sealed {
        Sealed(bytes)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// What is left of several behind the first `sent` bytes, which the kernel has taken.
    pub fn rest(all: &[Sealed], sent: usize) -> Vec<Sealed> {
        let mut skip = sent;
        let mut rest = Vec::new();
        for Sealed(bytes) in all {
            if skip < bytes.len() {
                rest.push(Sealed(bytes.slice(skip..)));
            }
            skip = skip.saturating_sub(bytes.len());
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_begins_where_the_kernel_stopped() {
        let all = [b"abc", b"def"].map(|bytes| Sealed::new(Bytes::from_static(bytes)));
        let rest = |sent| {
            let rest = Sealed::rest(&all, sent);
            rest.iter().map(|sealed| String::from_utf8_lossy(sealed.bytes()).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(rest(0), ["abc", "def"]);
        assert_eq!(rest(2), ["c", "def"]);
        assert_eq!(rest(3), ["def"]);
        assert_eq!(rest(5), ["f"]);
        assert!(rest(6).is_empty());
    }
}

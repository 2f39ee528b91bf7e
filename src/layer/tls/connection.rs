//! One connection from its first byte to its last.

use std::mem;
use std::sync::Arc;

use rustls::ServerConfig;

use crate::base::bytes::{Bytes, BytesMut};
use crate::layer::tls::established::Established;
use crate::layer::tls::handshake::{Failed, Handshake};
use crate::layer::tls::record::{alert, plain_alert};
use crate::layer::{Fault, Layer, Opened, Step, StepKind};
use crate::record::LayerRecord;

/// One connection.
pub struct Tls {
    pub(super) state: State,
    /// To be sent before anything else.
    pub(super) first: Vec<u8>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are established, and one piece of memory is less than two"
)]
pub(super) enum State {
    Handshake(Box<Handshake>),
    Established(Established),
    /// `first` is all there is to say.
    Failed,
}

/// What an established connection owns besides its slot.
const _: () = assert!(size_of::<Tls>() <= 336);

impl Tls {
    pub fn new(config: Arc<ServerConfig>) -> Tls {
        Tls { state: State::Handshake(Box::new(Handshake::new(config))), first: Vec::new() }
    }

    /// One of another process, behind its handshake; `None` for what none is.
    pub fn from_record(record: &LayerRecord) -> Option<Tls> {
        let established = Established::from_record(record)?;
        Some(Tls { state: State::Established(established), first: record.first.to_vec() })
    }

    fn fail(&mut self, Failed { fault, outgoing }: Failed) -> Fault {
        self.first = outgoing;
        self.state = State::Failed;
        fault
    }
}

impl Layer for Tls {
    fn open<'a>(&'a mut self, bytes: &'a mut [u8]) -> (usize, Opened<'a>) {
        let given = bytes.len();
        // In two steps: the borrow of what is opened may last as long as `self`.
        if let State::Handshake(handshake) = &mut self.state {
            let received = handshake.receive(bytes);
            return match received {
                Ok(()) => (given, Opened::Nothing),
                Err(failed) => (given, Opened::Fault(self.fail(failed))),
            };
        }
        match &mut self.state {
            State::Established(established) => established.open(bytes),
            State::Handshake(_) | State::Failed => (given, Opened::Nothing),
        }
    }

    fn release(&mut self) {
        if let State::Established(established) = &mut self.state {
            established.release();
        }
    }

    fn seal(&mut self, plain: &[Bytes], last: bool, sealed: &mut BytesMut) {
        sealed.extend_from_slice(&mem::take(&mut self.first));
        match &mut self.state {
            State::Handshake(handshake) => {
                sealed.extend_from_slice(&handshake.take_outgoing());
                if last {
                    // Given up before it began: by the node's limits or its end.
                    if handshake.is_unanswered() {
                        sealed.extend_from_slice(&plain_alert(alert::WARNING, alert::CLOSE_NOTIFY));
                    }
                    self.state = State::Failed;
                }
            }
            State::Established(established) => established.seal(plain, last, sealed),
            State::Failed => {}
        }
    }

    fn is_ready(&self) -> bool {
        matches!(self.state, State::Established(_))
    }

    fn wants_step(&mut self) -> Option<StepKind> {
        match &mut self.state {
            State::Handshake(handshake) => handshake.wants_step(),
            _ => None,
        }
    }

    fn step(&mut self) -> Step {
        let State::Handshake(handshake) = &mut self.state else { return Step::Nothing };
        match handshake.step() {
            Ok(None) => Step::Nothing,
            Ok(Some(agreed)) => {
                self.first = agreed.outgoing;
                self.state = State::Established(agreed.established);
                Step::Ready { resumed: agreed.resumed, certificate: agreed.certificate, rest: agreed.rest }
            }
            Err(failed) => Step::Fault(self.fail(failed)),
        }
    }

    fn wants_to_speak(&self) -> bool {
        let speaks = match &self.state {
            State::Handshake(handshake) => handshake.has_outgoing(),
            State::Established(established) => established.wants_to_speak(),
            State::Failed => false,
        };
        speaks || !self.first.is_empty()
    }

    fn to_record(&self) -> Option<LayerRecord> {
        match &self.state {
            State::Established(established) => Some(established.to_record(&self.first)),
            State::Handshake(_) | State::Failed => None,
        }
    }

    fn stored_bytes(&self) -> usize {
        let state = match &self.state {
            State::Handshake(handshake) => handshake.stored_bytes(),
            State::Established(established) => established.stored_bytes(),
            State::Failed => 0,
        };
        state + self.first.capacity()
    }
}

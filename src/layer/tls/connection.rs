//! One connection from its first byte to its last.

use std::mem;
use std::sync::Arc;

use rustls::ServerConfig;

use crate::base::bytes::{Bytes, BytesMut};
use crate::layer::tls::established::Established;
use crate::layer::tls::handshake::{Failed, TlsHandshake};
use crate::layer::tls::record::{alert, plain_alert};
use crate::layer::{Fault, Layer, LayerStep, OpenedBytes, StepKind};
use crate::record::LayerRecord;

/// One connection.
pub struct Tls {
    pub(super) state: TlsState,
    /// To be sent before anything else.
    pub(super) first: Vec<u8>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are established, and one piece of memory is less than two"
)]
pub(super) enum TlsState {
    Handshake(Box<TlsHandshake>),
    Established(Established),
    /// `first` is all there is to say.
    Failed,
}

/// What an established connection owns besides its slot.
const _: () = assert!(size_of::<Tls>() <= 336);

impl Tls {
    pub fn new(config: Arc<ServerConfig>) -> Tls {
        Tls { state: TlsState::Handshake(Box::new(TlsHandshake::new(config))), first: Vec::new() }
    }

    /// One of another process, behind its handshake; `None` for what none is.
    pub fn from_record(record: &LayerRecord) -> Option<Tls> {
        let established = Established::from_record(record)?;
        Some(Tls { state: TlsState::Established(established), first: record.first.to_vec() })
    }

    fn fail(&mut self, Failed { fault, outgoing }: Failed) -> Fault {
        self.first = outgoing;
        self.state = TlsState::Failed;
        fault
    }
}

impl Layer for Tls {
    fn open<'a>(&'a mut self, bytes: &'a mut [u8]) -> (usize, OpenedBytes<'a>) {
        let given = bytes.len();
        // In two steps: the borrow of what is opened may last as long as `self`.
        if let TlsState::Handshake(handshake) = &mut self.state {
            let received = handshake.receive(bytes);
            return match received {
                Ok(()) => (given, OpenedBytes::Nothing),
                Err(failed) => (given, OpenedBytes::Fault(self.fail(failed))),
            };
        }
        match &mut self.state {
            TlsState::Established(established) => established.open(bytes),
            TlsState::Handshake(_) | TlsState::Failed => (given, OpenedBytes::Nothing),
        }
    }

    fn release(&mut self) {
        if let TlsState::Established(established) = &mut self.state {
            established.release();
        }
    }

    fn seal(&mut self, plain: &[Bytes], last: bool, sealed: &mut BytesMut) {
        sealed.extend_from_slice(&mem::take(&mut self.first));
        match &mut self.state {
            TlsState::Handshake(handshake) => {
                sealed.extend_from_slice(&handshake.take_outgoing());
                if last {
                    // Given up before it began: by the node's limits or its end.
                    if handshake.is_unanswered() {
                        sealed.extend_from_slice(&plain_alert(alert::WARNING, alert::CLOSE_NOTIFY));
                    }
                    self.state = TlsState::Failed;
                }
            }
            TlsState::Established(established) => established.seal(plain, last, sealed),
            TlsState::Failed => {}
        }
    }

    fn is_ready(&self) -> bool {
        matches!(self.state, TlsState::Established(_))
    }

    fn wants_step(&mut self) -> Option<StepKind> {
        match &mut self.state {
            TlsState::Handshake(handshake) => handshake.wants_step(),
            _ => None,
        }
    }

    fn step(&mut self) -> LayerStep {
        let TlsState::Handshake(handshake) = &mut self.state else { return LayerStep::Nothing };
        match handshake.step() {
            Ok(None) => LayerStep::Nothing,
            Ok(Some(agreed)) => {
                self.first = agreed.outgoing;
                self.state = TlsState::Established(agreed.established);
                LayerStep::Ready {
                    resumed: agreed.resumed,
                    certificate: agreed.certificate,
                    rest: agreed.rest,
                }
            }
            Err(failed) => LayerStep::Fault(self.fail(failed)),
        }
    }

    fn wants_to_speak(&self) -> bool {
        let speaks = match &self.state {
            TlsState::Handshake(handshake) => handshake.has_outgoing(),
            TlsState::Established(established) => established.wants_to_speak(),
            TlsState::Failed => false,
        };
        speaks || !self.first.is_empty()
    }

    fn to_record(&self) -> Option<LayerRecord> {
        match &self.state {
            TlsState::Established(established) => Some(established.to_record(&self.first)),
            TlsState::Handshake(_) | TlsState::Failed => None,
        }
    }

    fn stored_bytes(&self) -> usize {
        let state = match &self.state {
            TlsState::Handshake(handshake) => handshake.stored_bytes(),
            TlsState::Established(established) => established.stored_bytes(),
            TlsState::Failed => 0,
        };
        state + self.first.capacity()
    }
}

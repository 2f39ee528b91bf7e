//! A connection behind its handshake: a key for each direction, and what there is of a record that comes in pieces.

use std::mem;

use crate::base::bytes::{Bytes, BytesMut};
use crate::layer::tls::keys::RecordKey;
use crate::layer::tls::record::{self, HEADER, PLAIN_MAX, TlsVersion, alert, kind};
use crate::layer::{Fault, OpenedBytes};
use crate::record::LayerRecord;

/// Records in a row that carry nothing plain: empty ones, warnings, key updates. No peer has a reason for more, and each
/// costs a decryption.
const EMPTY_RECORDS_MAX: u8 = 32;

/// A KeyUpdate message (RFC 8446 section 4.6.3), but for its last byte: whether the peer is to do the same.
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];

pub struct Established {
    tx: RecordKey,
    rx: RecordKey,
    /// What has come of a record.
    partial: Vec<u8>,
    /// A record that came in pieces, opened: until it has been looked at.
    opened: Vec<u8>,
    empty_records: u8,
    /// The peer wants us to take the next key.
    update_due: bool,
    /// To be said before the end.
    alert_due: Option<u8>,
    /// Nothing is opened any more.
    deaf: bool,
    /// Nothing is sealed any more.
    ended: bool,
}

/// The bound for an idle connection, of which its place in the shard's list takes 16 bytes.
const _: () = assert!(size_of::<Established>() <= 288);

impl Established {
    pub fn new(tx: RecordKey, rx: RecordKey) -> Established {
        Established {
            tx,
            rx,
            partial: Vec::new(),
            opened: Vec::new(),
            empty_records: 0,
            update_due: false,
            alert_due: None,
            deaf: false,
            ended: false,
        }
    }

    /// As it stands between two reads and two writes.
    pub fn to_record(&self, first: &[u8]) -> LayerRecord {
        LayerRecord {
            sends: self.tx.to_record(),
            receives: self.rx.to_record(),
            first: Bytes::copy_from_slice(first),
            partial: Bytes::copy_from_slice(&self.partial),
            empty_records: self.empty_records,
            update_due: self.update_due,
            alert_due: self.alert_due,
            deaf: self.deaf,
            ended: self.ended,
            certificate: None,
        }
    }

    /// `None` for what none is.
    pub fn from_record(record: &LayerRecord) -> Option<Established> {
        let (tx, rx) = (RecordKey::from_record(&record.sends)?, RecordKey::from_record(&record.receives)?);
        // A record that is whole would have been opened.
        let partial_fits = match record::header(&record.partial, Some(rx.version())) {
            Ok(None) => true,
            Ok(Some((_, len))) => record.partial.len() < len,
            Err(_) => false,
        };
        (tx.version() == rx.version() && partial_fits).then(|| Established {
            partial: record.partial.to_vec(),
            empty_records: record.empty_records,
            update_due: record.update_due,
            alert_due: record.alert_due,
            deaf: record.deaf,
            ended: record.ended,
            ..Established::new(tx, rx)
        })
    }

    /// See [`crate::layer::Layer::open`].
    pub fn open<'a>(&'a mut self, bytes: &'a mut [u8]) -> (usize, OpenedBytes<'a>) {
        let given = bytes.len();
        if self.deaf {
            return (given, OpenedBytes::Nothing);
        }
        if self.ended && self.tx.is_exhausted() {
            // A key of ours is exhausted: the client has read so, and may not know what to do about it.
            return (given, self.fail(Fault::KeyExhausted));
        }
        let version = Some(self.rx.version());
        if self.partial.is_empty() {
            return match record::whole(bytes, version) {
                Ok(Some(len)) => (len, self.open_record(Some(&mut bytes[..len]))),
                Ok(None) => {
                    self.partial.extend_from_slice(bytes);
                    (given, OpenedBytes::Nothing)
                }
                Err(fault) => (given, self.fail(fault)),
            };
        }
        // The header first: only then is it known how much belongs to this record.
        let mut taken = HEADER.saturating_sub(self.partial.len()).min(given);
        self.partial.extend_from_slice(&bytes[..taken]);
        let len = match record::header(&self.partial, version) {
            Ok(None) => return (taken, OpenedBytes::Nothing),
            Ok(Some((_, len))) => len,
            Err(fault) => return (given, self.fail(fault)),
        };
        let more = (len - self.partial.len()).min(given - taken);
        self.partial.extend_from_slice(&bytes[taken..taken + more]);
        taken += more;
        if self.partial.len() < len {
            return (taken, OpenedBytes::Nothing);
        }
        (taken, self.open_record(None))
    }

    /// A whole record: `theirs`, or what has been stored.
    fn open_record<'a>(&'a mut self, mut theirs: Option<&'a mut [u8]>) -> OpenedBytes<'a> {
        let key = self.rx.ring_key();
        if theirs.is_none() {
            self.opened = mem::take(&mut self.partial);
        }
        let record = theirs.as_deref_mut().unwrap_or(&mut self.opened);
        let message = match self.rx.open(&key, record) {
            Ok((kind::APPLICATION_DATA, at)) if !at.is_empty() => {
                self.empty_records = 0;
                return OpenedBytes::Plain(&mut theirs.unwrap_or(&mut self.opened)[at]);
            }
            Ok((kind, at)) => TlsMessage::read(kind, &record[at]),
            Err(fault) => Err(fault),
        };
        self.handle_message(message)
    }

    fn handle_message<'a>(&mut self, message: Result<TlsMessage, Fault>) -> OpenedBytes<'a> {
        let version = self.rx.version();
        let taken = match message {
            Ok(TlsMessage::Nothing | TlsMessage::Alert(_, alert::USER_CANCELED)) => Ok(()),
            Ok(TlsMessage::Alert(_, alert::CLOSE_NOTIFY)) => {
                self.deaf = true;
                return OpenedBytes::End;
            }
            Ok(TlsMessage::Alert(alert::WARNING, _)) if version == TlsVersion::Tls12 => Ok(()),
            Ok(TlsMessage::Alert(_, description)) => {
                // Both directions are over: there is no answer to a fatal alert.
                (self.deaf, self.ended) = (true, true);
                return OpenedBytes::Fault(alert_fault(description));
            }
            Ok(TlsMessage::KeyUpdate { asks }) if version == TlsVersion::Tls13 => {
                self.update_due |= asks;
                self.rx.update();
                Ok(())
            }
            Ok(TlsMessage::KeyUpdate { .. } | TlsMessage::Handshake) => match version {
                TlsVersion::Tls13 => Err(Fault::Unexpected),
                TlsVersion::Tls12 => Err(Fault::Renegotiation),
            },
            Err(fault) => Err(fault),
        };
        self.empty_records += 1;
        match taken {
            Ok(()) if self.empty_records > EMPTY_RECORDS_MAX => self.fail(Fault::EmptyRecords),
            Ok(()) => OpenedBytes::Nothing,
            Err(fault) => self.fail(fault),
        }
    }

    fn fail<'a>(&mut self, fault: Fault) -> OpenedBytes<'a> {
        self.deaf = true;
        self.partial = Vec::new();
        self.alert_due = match fault {
            Fault::BadRecord => Some(alert::BAD_RECORD_MAC),
            Fault::RecordTooLong => Some(alert::RECORD_OVERFLOW),
            Fault::NotTls => Some(alert::DECODE_ERROR),
            Fault::Renegotiation => Some(alert::NO_RENEGOTIATION),
            // The close_notify at its end says enough.
            Fault::KeyExhausted => None,
            _ => Some(alert::UNEXPECTED_MESSAGE),
        };
        OpenedBytes::Fault(fault)
    }

    pub fn release(&mut self) {
        self.opened = Vec::new();
    }

    /// See [`crate::layer::Layer::seal`].
    pub fn seal(&mut self, plain: &[Bytes], last: bool, sealed: &mut BytesMut) {
        if self.ended || plain.is_empty() && !last && !self.wants_to_speak() {
            return;
        }
        let mut key = self.tx.ring_key();
        if let Some(description) = self.alert_due.take() {
            self.seal_alert(&key, alert::FATAL, description, sealed);
            self.ended = true;
            return;
        }
        let bytes: usize = plain.iter().map(|piece| piece.len()).sum();
        sealed.reserve(bytes + (bytes / PLAIN_MAX + 2) * self.tx.overhead());
        let mut pieces = Pieces::new(plain);
        while !pieces.is_empty() || self.update_due {
            if self.tx.version() == TlsVersion::Tls13 && (self.update_due || self.tx.is_worn()) {
                let [a, b, c, d] = KEY_UPDATE;
                self.tx.seal(&key, kind::HANDSHAKE, [&[a, b, c, d, 0][..]].into_iter(), sealed);
                self.tx.update();
                key = self.tx.ring_key();
                self.update_due = false;
                continue;
            }
            if self.tx.is_exhausted() {
                // TLS 1.2 has no next key: the client learns that this is the end, and connects once more.
                self.seal_alert(&key, alert::WARNING, alert::CLOSE_NOTIFY, sealed);
                self.ended = true;
                return;
            }
            self.tx.seal(&key, kind::APPLICATION_DATA, pieces.next_record(), sealed);
        }
        if last {
            self.seal_alert(&key, alert::WARNING, alert::CLOSE_NOTIFY, sealed);
            self.ended = true;
        }
    }

    fn seal_alert(
        &mut self,
        key: &ring::aead::LessSafeKey,
        level: u8,
        description: u8,
        sealed: &mut BytesMut,
    ) {
        self.tx.seal(key, kind::ALERT, [&[level, description][..]].into_iter(), sealed);
    }

    pub fn wants_to_speak(&self) -> bool {
        !self.ended && (self.update_due || self.alert_due.is_some())
    }

    pub fn stored_bytes(&self) -> usize {
        self.partial.capacity() + self.opened.capacity()
    }

    #[cfg(test)]
    pub fn keys(&mut self) -> (&mut RecordKey, &mut RecordKey) {
        (&mut self.tx, &mut self.rx)
    }
}

/// What a record holds that carries nothing plain.
enum TlsMessage {
    Nothing,
    /// Level and description.
    Alert(u8, u8),
    KeyUpdate {
        /// The peer wants us to do the same.
        asks: bool,
    },
    /// Any other message of a handshake.
    Handshake,
}

impl TlsMessage {
    fn read(kind: u8, plain: &[u8]) -> Result<TlsMessage, Fault> {
        match (kind, plain) {
            (kind::APPLICATION_DATA, _) => Ok(TlsMessage::Nothing),
            (kind::ALERT, &[level, description]) => Ok(TlsMessage::Alert(level, description)),
            (kind::HANDSHAKE, &[ref head @ .., asks @ (0 | 1)]) if *head == KEY_UPDATE => {
                Ok(TlsMessage::KeyUpdate { asks: asks == 1 })
            }
            (kind::HANDSHAKE, _) => Ok(TlsMessage::Handshake),
            _ => Err(Fault::Unexpected),
        }
    }
}

/// What an alert of the peer's means.
pub fn alert_fault(description: u8) -> Fault {
    match description {
        // bad_certificate to certificate_unknown, unknown_ca.
        42..=46 | 48 => Fault::CertificateRefused,
        _ => Fault::AlertReceived,
    }
}

/// Plain bytes, cut into records.
struct Pieces<'p> {
    left: &'p [Bytes],
    /// Taken of the first of them.
    taken: usize,
}

impl<'p> Pieces<'p> {
    fn new(plain: &'p [Bytes]) -> Pieces<'p> {
        let mut pieces = Pieces { left: plain, taken: 0 };
        pieces.skip_empty();
        pieces
    }

    fn skip_empty(&mut self) {
        while let Some((first, rest)) = self.left.split_first()
            && first.len() == self.taken
        {
            (self.left, self.taken) = (rest, 0);
        }
    }

    fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// The pieces of the next record.
    fn next_record(&mut self) -> impl Iterator<Item = &'p [u8]> {
        let mut room = PLAIN_MAX;
        std::iter::from_fn(move || {
            let piece = self.left.first().filter(|_| room > 0)?;
            let len = (piece.len() - self.taken).min(room);
            let from = self.taken;
            room -= len;
            self.taken += len;
            self.skip_empty();
            Some(&piece[from..from + len])
        })
    }
}

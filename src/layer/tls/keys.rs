//! One direction's key: seals or opens single records, and turns into the next key (RFC 8446 section 7.2).
//!
//! ring's keys are 544 bytes each; here the raw ones are kept, and a ring key is made for the time of a read or a write,
//! which costs a tenth of a microsecond.

use std::ops::Range;

use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use ring::hkdf;
use rustls::ConnectionTrafficSecrets;

use crate::base::bytes::{Bytes, BytesMut};
use crate::layer::Fault;
use crate::layer::tls::record::{HEADER, PLAIN_MAX, TlsVersion, kind};
use crate::record::TrafficKeyRecord;

const TAG: usize = 16;
/// The part of a nonce that AES-GCM of TLS 1.2 sends along (RFC 5288 section 3).
const EXPLICIT: usize = 8;

/// Records that a key of AES-GCM may seal (RFC 8446 section 5.5): 2^24.5, here with some distance.
const GCM_RECORDS_MAX: u64 = 1 << 24;
/// From here on the next key of TLS 1.3 is taken.
const GCM_RECORDS_SOFT: u64 = GCM_RECORDS_MAX / 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

/// In the order of their numbers in records.
const CIPHERS: [Cipher; 3] = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

impl Cipher {
    fn algorithm(self) -> &'static Algorithm {
        match self {
            Cipher::Aes128Gcm => &AES_128_GCM,
            Cipher::Aes256Gcm => &AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    /// What secrets are derived with.
    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Cipher::Aes256Gcm => hkdf::HKDF_SHA384,
            Cipher::Aes128Gcm | Cipher::ChaCha20Poly1305 => hkdf::HKDF_SHA256,
        }
    }

    fn is_gcm(self) -> bool {
        self != Cipher::ChaCha20Poly1305
    }
}

/// A traffic secret of TLS 1.3: 32 bytes or 48, by the cipher's hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TrafficSecret([u8; 48]);

impl TrafficSecret {
    /// `None`: it is not as long as one is.
    pub fn new(bytes: &[u8]) -> Option<TrafficSecret> {
        let mut secret = [0; 48];
        matches!(bytes.len(), 32 | 48).then(|| secret[..bytes.len()].copy_from_slice(bytes))?;
        Some(TrafficSecret(secret))
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
fn expand(cipher: Cipher, secret: &TrafficSecret, label: &[u8], out: &mut [u8]) {
    let secret = &secret.0[..hkdf::KeyType::len(&cipher.hkdf())];
    let len = (out.len() as u16).to_be_bytes();
    let info: [&[u8]; 5] = [&len, &[6 + label.len() as u8], b"tls13 ", label, &[0]];
    let secret = hkdf::Prk::new_less_safe(cipher.hkdf(), secret);
    let derived = secret.expand(&info, Length(out.len()));
    derived.and_then(|derived| derived.fill(out)).expect("a key is shorter than what HKDF can give");
}

/// A direction's key, and how many records it has sealed or opened.
#[derive(Clone)]
pub struct RecordKey {
    /// Of TLS 1.3, from which the next one follows; zeros in TLS 1.2.
    secret: TrafficSecret,
    key: [u8; 32],
    iv: [u8; 12],
    sequence: u64,
    cipher: Cipher,
    version: TlsVersion,
}

/// What it costs a connection: two of them.
const _: () = assert!(size_of::<RecordKey>() <= 104);

/// An opened record: its kind, and where in it its plain bytes stand.
pub type Opened = (u8, Range<usize>);

impl RecordKey {
    /// From what the handshake has agreed on. `secret` is of TLS 1.3 only.
    ///
    /// # Errors
    /// When they do not belong together: a fault of ours or of the library.
    pub fn new(
        version: TlsVersion,
        (sequence, agreed): (u64, ConnectionTrafficSecrets),
        secret: Option<TrafficSecret>,
    ) -> Result<RecordKey, Fault> {
        let (cipher, key, iv) = match &agreed {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Cipher::ChaCha20Poly1305, key, iv),
            _ => return Err(Fault::Internal),
        };
        let mut agreed = RecordKey {
            secret: TrafficSecret([0; 48]),
            key: [0; 32],
            iv: iv.as_ref().try_into().map_err(|_| Fault::Internal)?,
            sequence,
            cipher,
            version,
        };
        agreed.key[..key.as_ref().len()].copy_from_slice(key.as_ref());
        match (version, secret) {
            (TlsVersion::Tls12, _) => Ok(agreed),
            // The secret must be that of the key, or the first key update would be the end of the connection.
            (TlsVersion::Tls13, Some(secret)) => {
                let derived = RecordKey::derive(cipher, secret, sequence);
                let same = derived.key == agreed.key && derived.iv == agreed.iv;
                same.then_some(derived).ok_or(Fault::Internal)
            }
            (TlsVersion::Tls13, None) => Err(Fault::Internal),
        }
    }

    fn derive(cipher: Cipher, secret: TrafficSecret, sequence: u64) -> RecordKey {
        let mut key =
            RecordKey { secret, key: [0; 32], iv: [0; 12], sequence, cipher, version: TlsVersion::Tls13 };
        expand(cipher, &secret, b"key", &mut key.key[..cipher.algorithm().key_len()]);
        expand(cipher, &secret, b"iv", &mut key.iv);
        key
    }

    pub fn version(&self) -> TlsVersion {
        self.version
    }

    /// For the process that goes on with the connection. A secret.
    pub fn to_record(&self) -> TrafficKeyRecord {
        TrafficKeyRecord {
            version: if self.version == TlsVersion::Tls12 { 2 } else { 3 },
            cipher: 1 + CIPHERS.iter().position(|cipher| *cipher == self.cipher).unwrap_or(0) as u8,
            secret: Bytes::copy_from_slice(&self.secret.0),
            key: Bytes::copy_from_slice(&self.key),
            iv: Bytes::copy_from_slice(&self.iv),
            sequence: self.sequence,
        }
    }

    /// `None` for what is no key.
    pub fn from_record(record: &TrafficKeyRecord) -> Option<RecordKey> {
        Some(RecordKey {
            secret: TrafficSecret((*record.secret).try_into().ok()?),
            key: (*record.key).try_into().ok()?,
            iv: (*record.iv).try_into().ok()?,
            sequence: record.sequence,
            cipher: *CIPHERS.get(usize::from(record.cipher.checked_sub(1)?))?,
            version: match record.version {
                2 => TlsVersion::Tls12,
                3 => TlsVersion::Tls13,
                _ => return None,
            },
        })
    }

    /// The next key of TLS 1.3 takes its place.
    pub fn update(&mut self) {
        debug_assert_eq!(self.version, TlsVersion::Tls13);
        let mut next = [0; 48];
        expand(
            self.cipher,
            &self.secret,
            b"traffic upd",
            &mut next[..hkdf::KeyType::len(&self.cipher.hkdf())],
        );
        *self = RecordKey::derive(self.cipher, TrafficSecret(next), 0);
    }

    /// Another key should seal what follows.
    pub fn is_worn(&self) -> bool {
        self.cipher.is_gcm() && self.sequence >= GCM_RECORDS_SOFT
    }

    /// It must not seal anything but the end.
    pub fn is_exhausted(&self) -> bool {
        self.cipher.is_gcm() && self.sequence >= GCM_RECORDS_MAX
    }

    pub fn ring_key(&self) -> LessSafeKey {
        let algorithm = self.cipher.algorithm();
        let key = UnboundKey::new(algorithm, &self.key[..algorithm.key_len()]);
        LessSafeKey::new(key.expect("as long as the algorithm wants it"))
    }

    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    /// The bytes that a record of TLS 1.2 is authenticated with besides its own (RFC 5246 section 6.2.3.3).
    fn additional_12(&self, kind: u8, len: usize) -> [u8; 13] {
        let mut additional = [0; 13];
        additional[..8].copy_from_slice(&self.sequence.to_be_bytes());
        additional[8..11].copy_from_slice(&[kind, 3, 3]);
        additional[11..].copy_from_slice(&(len as u16).to_be_bytes());
        additional
    }

    /// What a record is longer than its plain bytes.
    pub fn overhead(&self) -> usize {
        HEADER
            + TAG
            + match self.version {
                TlsVersion::Tls13 => 1,
                TlsVersion::Tls12 if self.cipher.is_gcm() => EXPLICIT,
                TlsVersion::Tls12 => 0,
            }
    }

    /// Appends one record of what `pieces` hold, at most [`PLAIN_MAX`] bytes in sum. `ring_key` is of this key.
    pub fn seal<'p>(
        &mut self,
        ring_key: &LessSafeKey,
        kind: u8,
        pieces: impl Iterator<Item = &'p [u8]>,
        into: &mut BytesMut,
    ) {
        let start = into.len();
        into.extend_from_slice(&[0; HEADER]);
        let nonce = self.nonce();
        if self.version == TlsVersion::Tls12 && self.cipher.is_gcm() {
            into.extend_from_slice(&nonce[4..]);
        }
        let body = into.len();
        pieces.for_each(|piece| into.extend_from_slice(piece));
        let plain = into.len() - body;
        debug_assert!(plain <= PLAIN_MAX);
        let outer = match self.version {
            TlsVersion::Tls13 => {
                into.extend_from_slice(&[kind]);
                kind::APPLICATION_DATA
            }
            TlsVersion::Tls12 => kind,
        };
        let len = (into.len() - start - HEADER + TAG) as u16;
        into[start..start + HEADER].copy_from_slice(&[outer, 3, 3, (len >> 8) as u8, len as u8]);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = match self.version {
            TlsVersion::Tls13 => {
                let mut additional = [0; HEADER];
                additional.copy_from_slice(&into[start..start + HEADER]);
                ring_key.seal_in_place_separate_tag(nonce, Aad::from(additional), &mut into[body..])
            }
            TlsVersion::Tls12 => {
                let additional = self.additional_12(kind, plain);
                ring_key.seal_in_place_separate_tag(nonce, Aad::from(additional), &mut into[body..])
            }
        };
        into.extend_from_slice(tag.expect("shorter than any algorithm's bound").as_ref());
        self.sequence += 1;
    }

    /// Opens a whole record in its place.
    ///
    /// # Errors
    /// It was altered, or sealed with another key, or is no record of this version.
    pub fn open(&mut self, ring_key: &LessSafeKey, record: &mut [u8]) -> Result<Opened, Fault> {
        let (header, body) = record.split_at_mut(HEADER);
        let outer = header[0];
        let mut start = HEADER;
        let opened = match self.version {
            TlsVersion::Tls13 => {
                if outer != kind::APPLICATION_DATA {
                    return Err(Fault::Unexpected);
                }
                let nonce = Nonce::assume_unique_for_key(self.nonce());
                ring_key.open_in_place(nonce, Aad::from(&*header), body)
            }
            TlsVersion::Tls12 => {
                let explicit = if self.cipher.is_gcm() { EXPLICIT } else { 0 };
                let Some(plain) = body.len().checked_sub(explicit + TAG) else {
                    return Err(Fault::BadRecord);
                };
                let mut nonce = self.nonce();
                if self.cipher.is_gcm() {
                    nonce[..4].copy_from_slice(&self.iv[..4]);
                    nonce[4..].copy_from_slice(&body[..EXPLICIT]);
                }
                let additional = self.additional_12(outer, plain);
                let nonce = Nonce::assume_unique_for_key(nonce);
                start += explicit;
                ring_key.open_in_place(nonce, Aad::from(additional), &mut body[explicit..])
            }
        };
        let plain = opened.map_err(|_| Fault::BadRecord)?;
        self.sequence += 1;
        if self.version == TlsVersion::Tls12 {
            return match plain.len() <= PLAIN_MAX {
                true => Ok((outer, start..start + plain.len())),
                false => Err(Fault::RecordTooLong),
            };
        }
        // Behind the plain bytes stand their kind and any number of zeros (RFC 8446 section 5.4).
        if plain.len() > PLAIN_MAX + 1 {
            return Err(Fault::RecordTooLong);
        }
        let last = plain.iter().rposition(|byte| *byte != 0).ok_or(Fault::Unexpected)?;
        Ok((plain[last], start..start + last))
    }

    #[cfg(test)]
    pub fn wear_out(&mut self, left: u64) {
        self.sequence = GCM_RECORDS_MAX - left;
    }

    #[cfg(test)]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

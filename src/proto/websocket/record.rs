//! A decoder between two reads as a record, and back.

use super::decode::{Frame, FrameKind};
use super::encode::FRAME_HEADER_BYTES_MAX;
use super::utf8::Utf8Stream;
use super::{Decoder, Opcode, Role};
use crate::base::bytes::Bytes;
use crate::base::limits;
use crate::record::{DecoderRecord, FrameRecord, RecordFault};

impl Decoder {
    /// What has come in part; `None` for [an idle one](Decoder::is_idle), in whose place a new one does as well.
    pub fn to_record(&self) -> Option<DecoderRecord> {
        if self.is_idle() {
            return None;
        }
        // A message that was returned is done with.
        let payload = if self.payload_returned { &[][..] } else { &self.payload };
        Some(DecoderRecord {
            header: Bytes::copy_from_slice(&self.header[..self.header_len.into()]),
            frame: self.frame.map(|frame| FrameRecord {
                opcode: frame.opcode as u8,
                fin: frame.fin,
                key: frame.key.map(u32::from_be_bytes),
                left: frame.left as u64,
                compressed: frame.compressed,
            }),
            message_is_text: self.message.map(|kind| kind == FrameKind::Text),
            payload: Bytes::copy_from_slice(payload),
            partial_character: Bytes::copy_from_slice(self.utf8.partial()),
            control: Bytes::copy_from_slice(self.control()),
            compressed: self.compressed && self.message.is_some(),
        })
    }

    /// The same decoder for the next read; `deflating` as it [was](Decoder::deflating). `message_bytes_max` may be another
    /// than the one that it had: it counts for frames that are still to begin.
    ///
    /// # Errors
    /// [`RecordFault::Impossible`] for what no decoder has after any input.
    pub fn from_record(
        role: Role,
        message_bytes_max: usize,
        deflating: bool,
        record: &DecoderRecord,
    ) -> Result<Decoder, RecordFault> {
        let mut decoder = Decoder::new(role, message_bytes_max).deflating(deflating);
        decoder.compressed = record.compressed;
        if record.compressed && (!deflating || record.message_is_text.is_none()) {
            return Err(RecordFault::Impossible("a compressed message"));
        }
        decoder.message =
            record.message_is_text.map(|text| if text { FrameKind::Text } else { FrameKind::Binary });
        decoder.payload = record.payload.to_vec();
        if (decoder.message != Some(FrameKind::Text) || record.compressed)
            && !record.partial_character.is_empty()
            || decoder.message.is_none() && !record.payload.is_empty()
        {
            return Err(RecordFault::Impossible("payload of no message"));
        }
        decoder.utf8 = Utf8Stream::with_partial(&record.partial_character)
            .filter(|_| record.payload.ends_with(&record.partial_character))
            .ok_or(RecordFault::Impossible("the beginning of a character"))?;
        decoder.frame =
            record.frame.as_ref().map(|frame| decoder.frame_of(frame, &record.control)).transpose()?;
        if decoder.frame.is_some() {
            if !record.header.is_empty() {
                return Err(RecordFault::Impossible("a frame inside a header"));
            }
            decoder.control[..record.control.len()].copy_from_slice(&record.control);
            decoder.control_len = record.control.len() as u8;
        } else if record.header.len() >= FRAME_HEADER_BYTES_MAX
            || !matches!(decoder.parse_header(&record.header), Ok(None))
        {
            return Err(RecordFault::Impossible("the beginning of a frame header"));
        } else {
            decoder.header[..record.header.len()].copy_from_slice(&record.header);
            decoder.header_len = record.header.len() as u8;
        }
        Ok(decoder)
    }

    fn frame_of(&self, frame: &FrameRecord, control: &[u8]) -> Result<Frame, RecordFault> {
        let impossible = RecordFault::Impossible("a frame");
        let opcode = Opcode::from_bits(frame.opcode).ok_or(impossible)?;
        let left = usize::try_from(frame.left).map_err(|_| impossible)?;
        let fits = match opcode.is_control() {
            // What comes is stored behind what has come.
            true => frame.fin && left <= limits::WS_CONTROL_BYTES_MAX.saturating_sub(control.len()),
            false => control.is_empty() && self.payload.len().checked_add(left).is_some(),
        };
        // Beside the message it belongs to; the first frame of one may have begun before there is anything to store.
        let belongs = match (opcode, self.message) {
            (Opcode::Continuation, message) => message.is_some(),
            _ => true,
        };
        let begins =
            matches!(opcode, Opcode::Text | Opcode::Binary) && (self.message.is_none() || self.compressed);
        let compressed = frame.compressed;
        if !fits
            || !belongs
            || compressed && !(self.deflating && begins)
            || frame.key.is_some() != (self.role == Role::Server)
        {
            return Err(impossible);
        }
        Ok(Frame { opcode, fin: frame.fin, compressed, key: frame.key.map(u32::to_be_bytes), left })
    }

    fn control(&self) -> &[u8] {
        match self.frame {
            Some(frame) if frame.opcode.is_control() => &self.control[..self.control_len.into()],
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;
    use crate::proto::websocket::{Message, apply_mask, write_fragment_masked, write_frame_masked};

    const MAX: usize = 4096;

    fn new_decoder() -> Decoder {
        Decoder::new(Role::Server, MAX).deflating(true)
    }

    /// Frames of a client: messages whole and in fragments, control frames between them.
    fn stream(prng: &mut Prng) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..prng.usize(1..5) {
            let text: String =
                (0..prng.usize(..60)).map(|_| ['a', 'é', '€', '😀'][prng.usize(..4)]).collect();
            let opcode = if prng.bool() { Opcode::Text } else { Opcode::Binary };
            let key = prng.u32(..).to_be_bytes();
            // As compressed as any other bytes: what is inside is not looked at here.
            let start = out.len();
            let rsv1 = if prng.bool() { 0x40 } else { 0 };
            if prng.bool() {
                write_frame_masked(&mut out, opcode, text.as_bytes(), key);
                out[start] |= rsv1;
                continue;
            }
            // Cut anywhere, inside of characters too.
            let cut = prng.usize(..=text.len());
            let (first, last) = text.as_bytes().split_at(cut);
            write_fragment_masked(&mut out, opcode, false, first, key);
            out[start] |= rsv1;
            write_frame_masked(&mut out, Opcode::Ping, &text.as_bytes()[..cut.min(100)], key);
            write_fragment_masked(&mut out, Opcode::Continuation, true, last, key);
        }
        out
    }

    fn decoded(decoder: &mut Decoder, input: &mut [u8], seen: &mut Vec<String>) -> Result<(), ()> {
        let mut at = 0;
        loop {
            let (consumed, message) = decoder.decode(&mut input[at..]).map_err(|_| ())?;
            at += consumed;
            match message {
                Some(message @ Message::Close { .. }) => {
                    seen.push(format!("{message:?}"));
                    return Ok(());
                }
                Some(message) => seen.push(format!("{message:?}")),
                None => return Ok(()),
            }
        }
    }

    #[test]
    fn a_decoder_goes_on_from_its_record_wherever_the_stream_is_cut() {
        for seed in 0..400 {
            let mut prng = Prng::with_seed(seed);
            let stream = stream(&mut prng);
            let mut whole = Vec::new();
            decoded(&mut new_decoder(), &mut stream.clone(), &mut whole).unwrap();
            let mut seen = Vec::new();
            let mut decoder = new_decoder();
            let mut at = 0;
            while at < stream.len() {
                let end = (at + prng.usize(1..20)).min(stream.len());
                decoded(&mut decoder, &mut stream[at..end].to_vec(), &mut seen).unwrap();
                at = end;
                let record = decoder.to_record();
                decoder = match &record {
                    None => new_decoder(),
                    Some(record) => Decoder::from_record(Role::Server, MAX, true, record).unwrap(),
                };
                assert_eq!(decoder.to_record(), record, "seed {seed}");
            }
            assert_eq!(seen, whole, "seed {seed}");
        }
    }

    /// What is accepted must not make a later read panic, whatever it brings.
    #[test]
    fn records_of_chance_are_refused_or_harmless() {
        let mut accepted = 0;
        for seed in 0..20_000 {
            let mut prng = Prng::with_seed(seed);
            let mut few = |max: usize| -> Bytes { (0..prng.usize(..=max)).map(|_| prng.u8(..)).collect() };
            let (header, payload, partial, control) = (few(14), few(8), few(4), few(130));
            let record = DecoderRecord {
                header: if prng.bool() { header } else { Bytes::new() },
                frame: prng.bool().then(|| FrameRecord {
                    opcode: prng.u8(..12),
                    fin: prng.bool(),
                    key: prng.bool().then(|| prng.u32(..)),
                    left: if prng.bool() { prng.u64(..140) } else { prng.u64(..) },
                    compressed: prng.u8(..4) == 0,
                }),
                message_is_text: prng.bool().then(|| prng.bool()),
                payload: if prng.bool() { payload } else { partial.clone() },
                partial_character: if prng.bool() { partial } else { Bytes::new() },
                control: if prng.bool() { control } else { Bytes::new() },
                compressed: prng.u8(..4) == 0,
            };
            let deflating = prng.bool();
            let Ok(mut decoder) = Decoder::from_record(Role::Server, MAX, deflating, &record) else {
                continue;
            };
            accepted += 1;
            let mut more = stream(&mut prng);
            apply_mask(&mut more[..prng.usize(..2)], [prng.u8(..); 4]);
            let _ = decoded(&mut decoder, &mut more, &mut Vec::new());
        }
        assert!(accepted > 500, "{accepted} records were taken");
    }
}

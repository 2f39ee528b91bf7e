//! The wire format: varints, tags, lengths. Reading borrows, writing appends.

use std::borrow::Cow;

use crate::proto::centrifuge::command::CommandFault;

type WireRead<T> = Result<T, CommandFault>;

/// The low bits of a tag.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED_32: u64 = 5;

/// Largest number of a field, by the encoding guide.
const FIELD_NUMBER_MAX: u64 = (1 << 29) - 1;

/// Takes a varint off the front: seven bits a byte, the lowest first, ten bytes at most.
fn varint(bytes: &mut &[u8]) -> WireRead<u64> {
    let mut value = 0u64;
    for (place, &byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if place == 9 && bits > 1 {
            break;
        }
        value |= bits << (place * 7);
        if byte < 0x80 {
            *bytes = &bytes[place + 1..];
            return Ok(value);
        }
    }
    Err(CommandFault("a varint without an end"))
}

fn take<'a>(bytes: &mut &'a [u8], len: u64) -> WireRead<&'a [u8]> {
    let split = usize::try_from(len).ok().and_then(|len| bytes.split_at_checked(len));
    let (taken, rest) = split.ok_or(CommandFault("a length beyond the end"))?;
    *bytes = rest;
    Ok(taken)
}

/// Takes what stands behind its length off the front.
pub(super) fn delimited<'a>(bytes: &mut &'a [u8]) -> WireRead<&'a [u8]> {
    let len = varint(bytes)?;
    take(bytes, len)
}

/// A field's value. A known field has the type that its reader asks for, an unknown one is dropped.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Of a type that no field of ours has.
    Fixed,
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> WireRead<&'a [u8]> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Varint(_) | Value::Fixed => Err(WRONG_TYPE),
        }
    }

    pub(super) fn text(self) -> WireRead<Cow<'a, str>> {
        let text = std::str::from_utf8(self.bytes()?).map_err(|_| CommandFault("text is not UTF-8"))?;
        Ok(text.into())
    }

    pub(super) fn unsigned<T: TryFrom<u64>>(self) -> WireRead<T> {
        T::try_from(self.varint()?).map_err(|_| OUT_OF_RANGE)
    }

    /// Of `int32` and `int64`: negative ones are sign-extended to ten bytes.
    pub(super) fn signed<T: TryFrom<i64>>(self) -> WireRead<T> {
        T::try_from(self.varint()?.cast_signed()).map_err(|_| OUT_OF_RANGE)
    }

    pub(super) fn flag(self) -> WireRead<bool> {
        Ok(self.varint()? != 0)
    }

    fn varint(self) -> WireRead<u64> {
        match self {
            Value::Varint(value) => Ok(value),
            Value::Bytes(_) | Value::Fixed => Err(WRONG_TYPE),
        }
    }
}

const WRONG_TYPE: CommandFault = CommandFault("a field of another type than the schema's");
const OUT_OF_RANGE: CommandFault = CommandFault("number out of range");

/// Calls `field` with each field of a message and its number.
pub(super) fn each_field<'a, E: From<CommandFault>>(
    mut message: &'a [u8],
    mut field: impl FnMut(u64, Value<'a>) -> Result<(), E>,
) -> Result<(), E> {
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let value = match tag & 7 {
            VARINT => Value::Varint(varint(&mut message)?),
            LENGTH => Value::Bytes(delimited(&mut message)?),
            FIXED_64 => take(&mut message, 8).map(|_| Value::Fixed)?,
            FIXED_32 => take(&mut message, 4).map(|_| Value::Fixed)?,
            // Groups are none of this schema; skipping them needs a stack.
            _ => return Err(CommandFault("a field of no known wire type").into()),
        };
        match tag >> 3 {
            0 => return Err(CommandFault("a field without a number").into()),
            // Other readers cut the tag to 32 bits, and take the field for another one.
            number if number > FIELD_NUMBER_MAX => {
                return Err(CommandFault("a field number out of range").into());
            }
            number => field(number, value)?,
        }
    }
    Ok(())
}

// --- writing

/// Fields of a message, appended in order; zero values are left out.
pub(super) struct ProtobufFields<'b> {
    out: &'b mut Vec<u8>,
}

impl<'b> ProtobufFields<'b> {
    /// Fields of a message that somebody else delimits.
    pub(super) fn new(out: &'b mut Vec<u8>) -> ProtobufFields<'b> {
        ProtobufFields { out }
    }

    /// Fields that are written already.
    pub(super) fn written(&mut self, fields: &[u8]) {
        self.out.extend_from_slice(fields);
    }

    pub(super) fn number(&mut self, number: u8, value: impl Into<u64>) {
        let value = value.into();
        if value != 0 {
            self.tag(number, VARINT);
            write_varint(self.out, value);
        }
    }

    pub(super) fn flag(&mut self, number: u8, value: bool) {
        self.number(number, value);
    }

    pub(super) fn text(&mut self, number: u8, value: &str) {
        self.bytes(number, value.as_bytes());
    }

    pub(super) fn raw(&mut self, number: u8, value: Option<&[u8]>) {
        self.bytes(number, value.unwrap_or_default());
    }

    pub(super) fn bytes(&mut self, number: u8, value: &[u8]) {
        if !value.is_empty() {
            self.tag(number, LENGTH);
            write_varint(self.out, value.len() as u64);
            self.out.extend_from_slice(value);
        }
    }

    /// As [`ProtobufFields::bytes`], written even when it is empty: an entry of a list or a map.
    pub(super) fn bytes_always(&mut self, number: u8, value: &[u8]) {
        self.tag(number, LENGTH);
        write_varint(self.out, value.len() as u64);
        self.out.extend_from_slice(value);
    }

    /// A message within this one, written even when it is empty: it says that it is there.
    pub(super) fn message(&mut self, number: u8, write: impl FnOnce(&mut ProtobufFields<'_>)) {
        self.tag(number, LENGTH);
        write_delimited(self.out, write);
    }

    /// An entry of a map: its key, and a message.
    pub(super) fn entry(&mut self, number: u8, key: &str, write: impl FnOnce(&mut ProtobufFields<'_>)) {
        self.message(number, |entry| {
            entry.text(1, key);
            entry.message(2, write);
        });
    }

    fn tag(&mut self, number: u8, wire_type: u64) {
        debug_assert!((1..16).contains(&number), "a tag of one byte");
        self.out.push(number << 3 | wire_type as u8);
    }
}

/// Appends a message behind its length. The length is known when the message is written: one byte is kept for it, and a
/// longer one moves the message.
pub(super) fn write_delimited(out: &mut Vec<u8>, write: impl FnOnce(&mut ProtobufFields<'_>)) {
    let at = out.len();
    out.push(0);
    write(&mut ProtobufFields { out });
    let len = out.len() - at - 1;
    if len < 0x80 {
        out[at] = len as u8;
        return;
    }
    let end = out.len();
    write_varint(out, len as u64);
    let prefix = out.len() - end;
    let mut kept = [0u8; 10];
    kept[..prefix].copy_from_slice(&out[end..]);
    out.truncate(end + prefix - 1);
    out.copy_within(at + 1..end, at + prefix);
    out[at..at + prefix].copy_from_slice(&kept[..prefix]);
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

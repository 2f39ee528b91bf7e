//! What a record's body is made of: values that write themselves as CBOR and read themselves back.

use std::sync::Arc;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use crate::base::bytes::Bytes;
use crate::base::ids::{ClientId, Epoch, Offset, Position};
use crate::record::fault::RecordFault;

/// A body that is being written.
pub struct FieldWriter(Encoder<Vec<u8>>);

/// A body that is being read.
pub struct Reader<'b>(Decoder<'b>);

/// A value of a body.
pub trait Field: Sized {
    fn write(&self, out: &mut FieldWriter);

    /// # Errors
    /// What is there is no such value.
    fn read(from: &mut Reader<'_>) -> Result<Self, RecordFault>;
}

const NEVER_FAILS: &str = "a vector takes everything";

impl FieldWriter {
    pub(super) fn new(out: Vec<u8>) -> FieldWriter {
        FieldWriter(Encoder::new(out))
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0.into_writer()
    }

    /// An array of so many values follows.
    pub fn array(&mut self, len: usize) {
        self.0.array(len as u64).expect(NEVER_FAILS);
    }
}

impl<'b> Reader<'b> {
    pub(super) fn new(body: &'b [u8]) -> Reader<'b> {
        Reader(Decoder::new(body))
    }

    /// How many values follow. Only of known length: what we write is.
    ///
    /// # Errors
    /// No array is here.
    pub fn array(&mut self) -> Result<u64, RecordFault> {
        self.0.array().map_err(|error| fault(&error, "an array"))?.ok_or(RecordFault::Malformed("an array"))
    }

    /// Leaves out so many values, whatever they are.
    ///
    /// # Errors
    /// There are not as many.
    pub fn skip(&mut self, values: u64) -> Result<(), RecordFault> {
        for _ in 0..values {
            self.0.skip().map_err(|error| fault(&error, "a later field"))?;
        }
        Ok(())
    }
}

fn fault(error: &minicbor::decode::Error, what: &'static str) -> RecordFault {
    if error.is_end_of_input() { RecordFault::Cut } else { RecordFault::Malformed(what) }
}

macro_rules! plain {
    ($($type:ident: $what:literal,)+) => {$(
        impl Field for $type {
            fn write(&self, out: &mut FieldWriter) {
                out.0.$type(*self).expect(NEVER_FAILS);
            }

            fn read(from: &mut Reader<'_>) -> Result<$type, RecordFault> {
                from.0.$type().map_err(|error| fault(&error, $what))
            }
        }
    )+};
}

plain! {
    bool: "a truth value",
    u8: "a number of 8 bits",
    u16: "a number of 16 bits",
    u32: "a number of 32 bits",
    u64: "a number of 64 bits",
    i64: "a signed number",
}

macro_rules! text {
    ($($type:ty),+) => {$(
        impl Field for $type {
            fn write(&self, out: &mut FieldWriter) {
                out.0.str(self).expect(NEVER_FAILS);
            }

            fn read(from: &mut Reader<'_>) -> Result<$type, RecordFault> {
                from.0.str().map(Into::into).map_err(|error| fault(&error, "a text"))
            }
        }
    )+};
}

text!(String, Box<str>, Arc<str>);

impl Field for Bytes {
    fn write(&self, out: &mut FieldWriter) {
        out.0.bytes(self).expect(NEVER_FAILS);
    }

    fn read(from: &mut Reader<'_>) -> Result<Bytes, RecordFault> {
        from.0.bytes().map(Bytes::copy_from_slice).map_err(|error| fault(&error, "bytes"))
    }
}

impl<T: Field> Field for Option<T> {
    fn write(&self, out: &mut FieldWriter) {
        match self {
            Some(value) => value.write(out),
            None => drop(out.0.null().expect(NEVER_FAILS)),
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Option<T>, RecordFault> {
        match from.0.datatype().map_err(|error| fault(&error, "an optional value"))? {
            Type::Null => from.0.null().map(|()| None).map_err(|error| fault(&error, "an optional value")),
            _ => T::read(from).map(Some),
        }
    }
}

impl<T: Field> Field for Box<T> {
    fn write(&self, out: &mut FieldWriter) {
        (**self).write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Box<T>, RecordFault> {
        T::read(from).map(Box::new)
    }
}

impl<T: Field> Field for Vec<T> {
    fn write(&self, out: &mut FieldWriter) {
        out.array(self.len());
        self.iter().for_each(|value| value.write(out));
    }

    fn read(from: &mut Reader<'_>) -> Result<Vec<T>, RecordFault> {
        // Grown by what is read: a length alone takes no memory.
        let (len, mut values) = (from.array()?, Vec::new());
        for _ in 0..len {
            values.push(T::read(from)?);
        }
        Ok(values)
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn write(&self, out: &mut FieldWriter) {
        out.array(2);
        self.0.write(out);
        self.1.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<(A, B), RecordFault> {
        match from.array()? {
            2 => Ok((A::read(from)?, B::read(from)?)),
            _ => Err(RecordFault::Malformed("a pair")),
        }
    }
}

impl Field for ClientId {
    fn write(&self, out: &mut FieldWriter) {
        out.0.bytes(&self.0.to_be_bytes()).expect(NEVER_FAILS);
    }

    fn read(from: &mut Reader<'_>) -> Result<ClientId, RecordFault> {
        let bytes = from.0.bytes().map_err(|error| fault(&error, "a client id"))?;
        let bytes = bytes.try_into().map_err(|_| RecordFault::Malformed("a client id"))?;
        Ok(ClientId(u128::from_be_bytes(bytes)))
    }
}

impl Field for Offset {
    fn write(&self, out: &mut FieldWriter) {
        self.0.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Offset, RecordFault> {
        u64::read(from).map(Offset)
    }
}

impl Field for Epoch {
    fn write(&self, out: &mut FieldWriter) {
        self.0.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Epoch, RecordFault> {
        let epoch = Epoch(u64::read(from)?);
        // Its text goes out to clients: a number that no text leads to is none.
        let is_known = || std::str::from_utf8(&epoch.text()).is_ok_and(|text| text.parse() == Ok(epoch));
        if epoch.is_own() || is_known() { Ok(epoch) } else { Err(RecordFault::Malformed("an epoch")) }
    }
}

impl Field for Position {
    fn write(&self, out: &mut FieldWriter) {
        (self.offset, self.epoch).write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Position, RecordFault> {
        <(Offset, Epoch)>::read(from).map(|(offset, epoch)| Position { offset, epoch })
    }
}

/// A struct of a record and its form: an array of its fields. What is added after version 1 stands behind a `;`, with
/// what it is in records that do not have it yet.
macro_rules! record {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$field_meta:meta])* $field:ident: $type:ty, )*
            $( ; $( $(#[$later_meta:meta])* $later:ident: $later_type:ty = $default:expr, )+ )?
        }
    )+) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
            $( $( $(#[$later_meta])* pub $later: $later_type, )+ )?
        }

        impl $crate::record::Field for $name {
            fn write(&self, out: &mut $crate::record::FieldWriter) {
                const FIELDS: &[&str] =
                    &[ $( stringify!($field), )* $( $( stringify!($later), )+ )? ];
                out.array(FIELDS.len());
                $( self.$field.write(out); )*
                $( $( self.$later.write(out); )+ )?
            }

            fn read(from: &mut $crate::record::Reader<'_>) -> Result<$name, $crate::record::RecordFault> {
                const FIELDS: &[&str] = &[ $( stringify!($field), )* ];
                let there = from.array()?;
                let Some(left) = there.checked_sub(FIELDS.len() as u64) else {
                    return Err($crate::record::RecordFault::Malformed(stringify!($name)));
                };
                $( let $field = $crate::record::Field::read(from)?; )*
                $(
                    let mut left = left;
                    $(
                        let $later = match left.checked_sub(1) {
                            Some(after) => { left = after; $crate::record::Field::read(from)? }
                            None => $default,
                        };
                    )+
                )?
                from.skip(left)?;
                Ok($name { $( $field, )* $( $( $later, )+ )? })
            }
        }

        #[cfg(test)]
        impl $crate::record::arbitrary::Arbitrary for $name {
            fn arbitrary(prng: &mut $crate::base::prng::Prng) -> $name {
                use $crate::record::arbitrary::Arbitrary;
                $name {
                    $( $field: Arbitrary::arbitrary(prng), )*
                    $( $( $later: Arbitrary::arbitrary(prng), )+ )?
                }
            }
        }
    )+};
}

/// An enum of a record and its form: a pair of the variant's number and its value.
macro_rules! choice {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$variant_meta:meta])* $number:literal => $variant:ident $(($type:ty))?, )+
        }
    )+) => {$(
        $(#[$meta])*
        // One at a time is held, on its way to bytes or from them.
        #[allow(clippy::large_enum_variant)]
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $( $(#[$variant_meta])* $variant $(($type))?, )+
        }

        impl $crate::record::Field for $name {
            fn write(&self, out: &mut $crate::record::FieldWriter) {
                out.array(2);
                match self {
                    $( choice!(@pattern value $variant $($type)?) => choice!(@write out $number value $($type)?), )+
                }
            }

            fn read(from: &mut $crate::record::Reader<'_>) -> Result<$name, $crate::record::RecordFault> {
                if from.array()? != 2 {
                    return Err($crate::record::RecordFault::Malformed(stringify!($name)));
                }
                match u8::read(from)? {
                    $( $number => choice!(@read from $variant $($type)?), )+
                    _ => Err($crate::record::RecordFault::Malformed(stringify!($name))),
                }
            }
        }

        #[cfg(test)]
        impl $crate::record::arbitrary::Arbitrary for $name {
            fn arbitrary(prng: &mut $crate::base::prng::Prng) -> $name {
                const NUMBERS: &[u8] = &[ $( $number, )+ ];
                match NUMBERS[prng.usize(..NUMBERS.len())] {
                    $( $number => choice!(@arbitrary prng $variant $($type)?), )+
                    _ => unreachable!("a number of the list"),
                }
            }
        }
    )+};
    (@arbitrary $prng:ident $variant:ident $type:ty) => {
        Self::$variant($crate::record::arbitrary::Arbitrary::arbitrary($prng))
    };
    (@arbitrary $prng:ident $variant:ident) => { Self::$variant };
    (@pattern $value:ident $variant:ident $type:ty) => { Self::$variant($value) };
    (@pattern $value:ident $variant:ident) => { Self::$variant };
    (@write $out:ident $number:literal $value:ident $type:ty) => {{
        <u8 as $crate::record::Field>::write(&$number, $out);
        $crate::record::Field::write($value, $out);
    }};
    (@write $out:ident $number:literal $value:ident) => {{
        <u8 as $crate::record::Field>::write(&$number, $out);
        <u8 as $crate::record::Field>::write(&0, $out);
    }};
    (@read $from:ident $variant:ident $type:ty) => {
        <$type as $crate::record::Field>::read($from).map(Self::$variant)
    };
    (@read $from:ident $variant:ident) => { $from.skip(1).map(|()| Self::$variant) };
}

pub(super) use {choice, record};

#[cfg(test)]
mod tests {
    use super::*;

    record! {
        /// As an earlier build has it.
        pub struct Early {
            a: u32,
            b: Option<Box<str>>,
        }
        /// As a later build has it.
        pub struct Late {
            a: u32,
            b: Option<Box<str>>,
            ;
            c: u64 = 7,
            d: Vec<Bytes> = Vec::new(),
        }
        pub struct Holder {
            late: Vec<Late>,
            end: u8,
        }
        pub struct EarlyHolder {
            late: Vec<Early>,
            end: u8,
        }
    }

    fn bytes(value: &impl Field) -> Vec<u8> {
        let mut writer = FieldWriter::new(Vec::new());
        value.write(&mut writer);
        writer.into_bytes()
    }

    fn back<T: Field>(bytes: &[u8]) -> Result<T, RecordFault> {
        T::read(&mut Reader::new(bytes))
    }

    #[test]
    fn an_earlier_build_skips_what_a_later_one_added() {
        let late = Late { a: 1, b: Some("b".into()), c: 9, d: vec![Bytes::from_static(b"x")] };
        let holder = Holder { late: vec![late.clone(), late.clone()], end: 5 };
        let read: EarlyHolder = back(&bytes(&holder)).unwrap();
        let early = Early { a: 1, b: Some("b".into()) };
        assert_eq!(read, EarlyHolder { late: vec![early.clone(), early], end: 5 });
        assert_eq!(back(&bytes(&holder)), Ok(holder));
    }

    #[test]
    fn a_later_build_knows_what_absence_means() {
        let holder = EarlyHolder { late: vec![Early { a: 3, b: None }], end: 5 };
        let read: Holder = back(&bytes(&holder)).unwrap();
        assert_eq!(read, Holder { late: vec![Late { a: 3, b: None, c: 7, d: Vec::new() }], end: 5 });
    }

    #[test]
    fn fields_of_the_first_version_are_needed() {
        assert_eq!(back::<Late>(&bytes(&(1u32, 2u32))), Err(RecordFault::Malformed("a text")));
        assert_eq!(back::<Late>(&bytes(&vec![1u32])), Err(RecordFault::Malformed("Late")));
        assert_eq!(back::<Late>(&[0x82, 1]), Err(RecordFault::Cut));
    }

    #[test]
    fn an_epoch_has_a_text() {
        for text in ["00000000", "ffffffff", "kJxQwBnT", "a", "1700000000"] {
            let epoch: Epoch = text.parse().unwrap();
            assert_eq!(back(&bytes(&epoch)), Ok(epoch));
        }
        for number in
            [1 << 32, u64::MAX, u64::from_be_bytes(*b"\"},{\"a\":"), u64::from_be_bytes(*b"a\0b\0\0\0\0\0")]
        {
            assert_eq!(back::<Epoch>(&bytes(&number)), Err(RecordFault::Malformed("an epoch")), "{number:x}");
        }
    }

    #[test]
    fn a_length_alone_takes_no_memory() {
        // Four thousand million values are announced, one is there.
        let claims = [0x9a, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(back::<Vec<u8>>(&claims), Err(RecordFault::Cut));
        assert_eq!(back::<Bytes>(&[0x5a, 0xff, 0xff, 0xff, 0xff, 1]), Err(RecordFault::Cut));
        assert_eq!(back::<Vec<u8>>(&[0x9f, 1, 0xff]), Err(RecordFault::Malformed("an array")));
    }
}

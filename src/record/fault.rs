//! Why bytes are no record, or cannot become one.

/// By name, so that the log of an upgrade or a store says what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    #[error("the record is cut off")]
    Cut,
    #[error("no record begins here")]
    Foreign,
    #[error("the record is of version {0}, later than what this build reads")]
    Version(u8),
    #[error("the record is of the unknown kind {0}")]
    UnknownKind(u8),
    #[error("the record is of another kind than was expected")]
    OtherKind,
    #[error("the record is longer than a record may be")]
    TooLong,
    #[error("the record's checksum is wrong")]
    Checksum,
    /// Names the struct or the field.
    #[error("the record is malformed at {0}")]
    Malformed(&'static str),
    /// The bytes are well formed, and mean what cannot be.
    #[error("the record contradicts itself or this node: {0}")]
    Impossible(&'static str),
}

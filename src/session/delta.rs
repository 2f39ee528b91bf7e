//! A publication as subscribers of deltas get it.

use std::borrow::Cow;

use crate::base::bytes::Bytes;
use crate::base::publication::Publication;
use crate::proto::centrifuge::{Format, quoted};
use crate::proto::fossil;

/// What changes from `base` to the publication, where that is shorter: made once for all.
pub fn patch_of<'p>(publication: &'p Publication, base: &Bytes) -> Option<&'p Bytes> {
    let make = || fossil::patch(base, &publication.data).map(Bytes::from);
    publication.encoded.patch(base, make)
}

/// The payload for a client that had `base`, and whether it is a patch of that. In JSON a payload is a text in a string, so
/// that patches of it are exact.
pub fn payload_of<'p>(
    publication: &'p Publication,
    base: Option<&Bytes>,
    format: Format,
) -> (Cow<'p, [u8]>, bool) {
    let patch = base.and_then(|base| patch_of(publication, base));
    match (format, patch) {
        (Format::Protobuf, Some(patch)) => (Cow::Borrowed(patch), true),
        (Format::Protobuf, None) => (Cow::Borrowed(&publication.data), false),
        (Format::Json, patch) => {
            let patch = patch.and_then(|patch| std::str::from_utf8(patch).ok());
            let text = patch.map_or_else(|| String::from_utf8_lossy(&publication.data), Cow::Borrowed);
            (Cow::Owned(quoted(&text)), patch.is_some())
        }
    }
}

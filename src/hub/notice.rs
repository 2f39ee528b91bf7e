//! Notices: subscribers hear that something was published and where, and read it when they want to.
//!
//! A notice is a publication with its position and nothing else, so that every codec, cursor and client knows what to do with
//! it. It is made where publications come to subscribers, on their shard; the log has the whole. One notice says all that
//! those before it did: of several that wait only the last is delivered, and it can be made of a position alone.

use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::ids::{ChannelName, Position};
use crate::base::publication::{Encoded, PayloadForm, Publication, Publications};
use crate::base::time::Time;
use crate::hub::options::ChannelOptions;

/// Says that there is something up to `position`, which was accepted then, where that is known.
pub fn notice(
    channel: ChannelName,
    position: Position,
    options: &ChannelOptions,
    accepted: Time,
) -> Arc<Publication> {
    let data = match options.payload {
        PayloadForm::Json => Bytes::from_static(b"null"),
        PayloadForm::Bytes => Bytes::new(),
    };
    Arc::new(Publication {
        channel,
        position,
        data,
        info: None,
        tags: Vec::new(),
        except: None,
        time_ms: 0,
        encoded: Encoded::of(accepted),
    })
}

/// What a subscriber of a channel of notices gets of publications that it missed.
pub fn only_notice(publications: &mut Publications, options: &ChannelOptions) {
    if let Some(last) = publications.last() {
        *publications = vec![notice(last.channel.clone(), last.position, options, last.encoded.accepted())];
    }
}

//! What the values of a channel come to when a new subscriber gets all of them at once.

use crate::config::sections::Config;
use crate::config::sentences::{grouped, of_all};

/// What a value has beside its key and its data, in the JSON of an answer: names, offset, separators. About.
const FRAME_BYTES: usize = 64;
/// A value that is no larger is a number or two: below, a channel with all its keys is likely not to fit.
const ROOM_BYTES: usize = 64;

/// A sentence for each namespace whose channels, with as many keys as they may have, hardly fit into what one connection may owe.
pub fn sentences(config: &Config) -> Vec<String> {
    let outbox = config.client.outbox_bytes_max;
    of_all(config, |options| {
        let channel = &options.channel;
        if !channel.is_value() {
            return None;
        }
        let room = (outbox.0 as usize / channel.keys_max).saturating_sub(FRAME_BYTES + channel.key_bytes_max);
        (room < ROOM_BYTES).then(|| {
            format!(
                "a new subscriber gets all values in one answer, and {} keys of {} bytes leave each value {room} bytes of \
                 client.outbox_bytes_max ({outbox}): a client that gets more than that, faster than it reads, is closed (3008). Fewer \
                 keys_max or key_bytes_max, more channels, or a larger outbox prevent that",
                grouped(channel.keys_max as u64),
                grouped(channel.key_bytes_max as u64),
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check::config_of;

    fn said(text: &str) -> Vec<String> {
        sentences(&config_of(text))
    }

    #[test]
    fn a_channel_whose_values_may_not_fit_into_an_answer_is_named() {
        let of = |keys_max| format!("[[namespace]]\nname = \"v\"\nkind = \"value\"\nkeys_max = {keys_max}\n");
        assert_eq!(said(""), [""; 0]);
        assert_eq!(said("[channel]\nkind = \"value\"\n"), [""; 0], "the defaults fit");
        let notes = said(&of(5_000));
        assert!(notes[0].starts_with("namespace \"v\": a new subscriber gets all values in one answer, and 5,000 keys of 128 bytes leave"));
        assert_eq!(notes.len(), 1);
        assert_eq!(said(&format!("[client]\noutbox_bytes_max = \"16MiB\"\n{}", of(5_000))), [""; 0]);
        assert!(said(&of(100_000))[0].contains("leave each value 0 bytes"));
    }
}

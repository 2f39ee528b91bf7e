//! How often a subscriber is given something.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Longest, milliseconds: an hour. A client that wants to hear less often asks by itself.
pub const DELIVER_EVERY_MS_MAX: u32 = 3_600_000;

/// At most once in so many milliseconds; 0: as its channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeliverEvery(pub u32);

impl DeliverEvery {
    /// Milliseconds, or a duration: `250ms`, `1s`, `5m`, `1h`.
    ///
    /// # Errors
    /// It is neither, or longer than [`DELIVER_EVERY_MS_MAX`].
    pub fn parse(text: &str) -> Result<DeliverEvery, &'static str> {
        const EXPECTED: &str =
            "deliver_every is a number of milliseconds or a duration up to 1h, like 250 or 1s";
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let each_ms: u32 = match unit {
            "" | "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(EXPECTED),
        };
        let ms = number.parse().ok().and_then(|number: u32| number.checked_mul(each_ms));
        ms.filter(|ms| *ms <= DELIVER_EVERY_MS_MAX).map(DeliverEvery).ok_or(EXPECTED)
    }

    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0.into())
    }
}

/// A number or a text.
impl<'de> Deserialize<'de> for DeliverEvery {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DeliverEvery, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Ms(u32),
            Text(String),
        }
        let read = match Wire::deserialize(deserializer)? {
            Wire::Ms(ms) => DeliverEvery::parse(&ms.to_string()),
            Wire::Text(text) => DeliverEvery::parse(&text),
        };
        read.map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_of_milliseconds_and_a_duration_has_its_unit() {
        for (text, ms) in
            [("0", 0), ("250", 250), ("250ms", 250), ("1s", 1_000), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(DeliverEvery::parse(text), Ok(DeliverEvery(ms)));
            assert_eq!(serde_json::from_str::<DeliverEvery>(&format!("{text:?}")).unwrap(), DeliverEvery(ms));
        }
        assert_eq!(serde_json::from_str::<DeliverEvery>("7").unwrap(), DeliverEvery(7));
        for wrong in ["", "s", "-1", "1.5s", "2h", "3600001", "1d", "99999999999s"] {
            assert!(DeliverEvery::parse(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["-1", "3600001", "true", "\"soon\""] {
            assert!(serde_json::from_str::<DeliverEvery>(wrong).is_err(), "{wrong}");
        }
    }
}

//! How far back a new subscriber begins.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::base::ids::Offset;
use crate::base::publication::{Since, SinceEpoch};

/// What a new subscriber gets of what was published before it came. One that names a position goes on from there instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewind {
    /// So many of the newest publications; 0 is none, whatever else is granted.
    Count(u32),
    /// Those of so many milliseconds before now.
    Age(u64),
}

impl Rewind {
    /// `10`, or a duration: `90s`, `5m`, `2h`, `1d`, `500ms`.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Rewind, &'static str> {
        const EXPECTED: &str = "rewind is a number of publications or a duration, like 10 or 5m";
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let each_ms: u64 = match unit {
            "" => return number.parse().map(Rewind::Count).map_err(|_| EXPECTED),
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(EXPECTED),
        };
        let number: Option<u64> = number.parse().ok();
        number.and_then(|number| number.checked_mul(each_ms)).map(Rewind::Age).ok_or(EXPECTED)
    }

    /// Where a subscriber begins that comes at `unix_s`; `None`: with what is published from now on.
    pub fn since(self, unix_s: u64) -> Option<Since> {
        let (count, from_ms) = match self {
            Rewind::Count(0) | Rewind::Age(0) => return None,
            Rewind::Count(count) => (count, 0),
            Rewind::Age(ms) => (u32::MAX, unix_s.saturating_mul(1000).saturating_sub(ms)),
        };
        Some(Since { offset: Offset(0), epoch: SinceEpoch::Newest { count, from_ms } })
    }
}

/// As [`Rewind::parse`] reads it.
impl fmt::Display for Rewind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rewind::Count(count) => write!(f, "{count}"),
            Rewind::Age(ms) => {
                let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
                let unit = units.into_iter().find(|(each, _)| *ms > 0 && ms.is_multiple_of(*each));
                let (each, unit) = unit.unwrap_or((1, "ms"));
                write!(f, "{}{unit}", ms / each)
            }
        }
    }
}

/// A number or a text.
impl<'de> Deserialize<'de> for Rewind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rewind, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Count(u32),
            Text(String),
        }
        match Wire::deserialize(deserializer)? {
            Wire::Count(count) => Ok(Rewind::Count(count)),
            Wire::Text(text) => Rewind::parse(&text).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_duration_are_told_apart_and_written_as_they_are_read() {
        for (text, rewind) in [
            ("0", Rewind::Count(0)),
            ("25", Rewind::Count(25)),
            ("500ms", Rewind::Age(500)),
            ("90s", Rewind::Age(90_000)),
            ("5m", Rewind::Age(300_000)),
            ("2h", Rewind::Age(7_200_000)),
            ("1d", Rewind::Age(86_400_000)),
        ] {
            assert_eq!(Rewind::parse(text), Ok(rewind));
            assert_eq!(rewind.to_string(), text);
            assert_eq!(serde_json::from_str::<Rewind>(&format!("{text:?}")).unwrap(), rewind);
        }
        assert_eq!(serde_json::from_str::<Rewind>("7").unwrap(), Rewind::Count(7));
        for wrong in ["", "m", "5 m", "-1", "5x", "5min", "4294967296", "99999999999999999999d"] {
            assert!(Rewind::parse(wrong).is_err(), "{wrong:?}");
        }
        for wrong in ["-1", "1.5", "true", "\"soon\"", "[]"] {
            assert!(serde_json::from_str::<Rewind>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_subscriber_begins_so_far_before_it_comes() {
        let newest = |rewind: Rewind| rewind.since(1_000).map(|since| since.epoch);
        assert_eq!(newest(Rewind::Count(3)), Some(SinceEpoch::Newest { count: 3, from_ms: 0 }));
        let all = SinceEpoch::Newest { count: u32::MAX, from_ms: 940_000 };
        assert_eq!(newest(Rewind::Age(60_000)), Some(all));
        assert_eq!([newest(Rewind::Count(0)), newest(Rewind::Age(0))], [None, None]);
        let farther = SinceEpoch::Newest { count: u32::MAX, from_ms: 0 };
        assert_eq!(newest(Rewind::Age(u64::MAX)), Some(farther), "from before there was time");
    }
}

//! Secrets with the date until which they are taken, as `client.token.hmac_secrets` writes them.

use crate::config::sections::TokenSettings;

/// Most further secrets: every token that none has signed is tried with all.
pub const FURTHER_SECRETS_MAX: usize = 16;

impl TokenSettings {
    /// The secrets of `hmac_secrets`, and until when each is taken, in seconds since 1970.
    pub fn further_secrets(&self) -> impl Iterator<Item = Result<(Vec<u8>, Option<u64>), &'static str>> {
        self.hmac_secrets.iter().map(|text| read(text.reveal()))
    }
}

/// # Errors
/// What is wrong, without the text: it holds a secret.
fn read(text: &str) -> Result<(Vec<u8>, Option<u64>), &'static str> {
    const WRITTEN: &str =
        "must be dates and secrets, like \"2027-01-31 the secret of before\" or \"never another secret\"";
    let (date, secret) = text.split_once(' ').ok_or(WRITTEN)?;
    if secret.is_empty() {
        return Err(WRITTEN);
    }
    let until_s = match date {
        "never" => None,
        seconds if seconds.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(seconds.parse().map_err(|_| WRITTEN)?)
        }
        date => Some(seconds_of(date).ok_or(WRITTEN)?),
    };
    Ok((secret.as_bytes().to_vec(), until_s))
}

/// Seconds since 1970 of a date (RFC 3339, in UTC), at its beginning where it has no time.
fn seconds_of(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00Z"));
    let numbers = |text: &str, separator: char| -> Option<[u64; 3]> {
        let all: Option<Vec<u64>> = text
            .split(separator)
            .map(|part| {
                let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
                is_number.then(|| part.parse().ok()).flatten()
            })
            .collect();
        all?.try_into().ok()
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time.strip_suffix('Z')?, ':')?;
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days_of = |month: u64, year: u64| match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    };
    if !(1970..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=days_of(month, year)).contains(&day)
    {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let months: u64 = (1..month).map(|month| days_of(month, year)).sum();
    Some((years + months + day - 1) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_stands_behind_its_date() {
        let secret = |text: &str| text.as_bytes().to_vec();
        for (text, until_s) in [
            ("never a b", None),
            ("0 a b", Some(0)),
            ("1704240000 a b", Some(1_704_240_000)),
            ("1970-01-01 a b", Some(0)),
            ("2024-01-03 a b", Some(1_704_240_000)),
            ("2024-02-29T12:30:15Z a b", Some(1_709_209_815)),
            ("2000-03-01 a b", Some(951_868_800)),
        ] {
            assert_eq!(read(text), Ok((secret("a b"), until_s)), "{text}");
        }
        for wrong in [
            "",
            "hunter2",
            "never ",
            "soon a",
            "2023-02-29 a",
            "2024-13-01 a",
            "2024-00-01 a",
            "2024-01-01T00:00:00 a",
            "2024-01-01T24:00:00Z a",
            "2024-1 a",
            "-1 a",
            "99999999999999999999 a",
        ] {
            let fault = read(wrong).unwrap_err();
            assert!(!fault.contains("hunter2"), "{wrong}: {fault}");
        }
    }
}

//! Regular expressions of the configuration: matched in linear time, so that none can hold a shard up.

use std::fmt;

use regex::{Regex, RegexBuilder};

/// What one compiled pattern may take, in bytes: room for any that people write, none for a repeated repetition.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// A pattern that is found anywhere in a text, unless it is anchored by `^` and `$`.
#[derive(Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// # Errors
    /// What is wrong with the text, in a line.
    pub fn new(text: &str) -> Result<Pattern, String> {
        let built = RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).build();
        built.map(Pattern).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "is too large a pattern".to_string(),
            error => {
                let text = error.to_string();
                let line = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_string();
                format!("is not a pattern: {line}")
            }
        })
    }

    pub fn is_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    pub fn text(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Pattern {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_searched_for_and_a_wrong_one_is_named() {
        let digits = Pattern::new("^[0-9]+$").unwrap();
        assert!(digits.is_in("12") && !digits.is_in("a12") && !digits.is_in("12\n"));
        assert!(Pattern::new("b").unwrap().is_in("abc"));
        assert!(Pattern::new("[a").unwrap_err().starts_with("is not a pattern: unclosed"));
        assert_eq!(Pattern::new("((a{1000}){1000}){100}").unwrap_err(), "is too large a pattern");
    }
}

//! What `trunkline check` says of channels, beside faults: a sentence for each namespace that has something to be said of it.

use crate::config::sections::Config;
use crate::session::rules::NamespaceOptions;

/// The sentences that `sentence` finds, each behind the name of what it is of.
pub(super) fn of_all(config: &Config, sentence: impl Fn(&NamespaceOptions) -> Option<String>) -> Vec<String> {
    let named = config.namespace.iter().map(|own| (format!("namespace {:?}", own.name), &own.options));
    let all = std::iter::once(("channels without a namespace".to_owned(), &config.channel)).chain(named);
    all.filter_map(|(name, options)| Some(format!("{name}: {}", sentence(options)?))).collect()
}

/// With a comma before every three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 50_005_000].map(grouped), ["0", "999", "1,000", "50,005,000"]);
    }
}

//! Deltas: what a patch makes of its base is its target, and no bytes are a patch that breaks who applies it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::proto::fossil::{apply, patch};

fuzz_target!(|data: &[u8]| {
    let Some((&cut, rest)) = data.split_first() else { return };
    let (one, other) = rest.split_at(rest.len() * usize::from(cut) / 255);
    check(one, other);
    check(other, one);
    // The same with a piece of the other put into it.
    let (head, tail) = one.split_at(one.len() / 2);
    check(one, &[head, other, tail].concat());
    if let Ok(made) = apply(one, other) {
        assert!(made.len() <= one.len().saturating_mul(other.len().max(1)) + other.len());
    }
});

fn check(base: &[u8], target: &[u8]) {
    let Some(patch) = patch(base, target) else { return };
    assert!(patch.len() < target.len(), "a patch is shorter than what it makes");
    assert_eq!(apply(base, &patch).as_deref(), Ok(target));
    assert!(
        std::str::from_utf8(target).is_err() || std::str::from_utf8(&patch).is_ok(),
        "of text it is text"
    );
}

//! The context of a trace as it travels: `traceparent` of W3C Trace Context (level 1), version 00.

use std::fmt;

/// The field's name.
pub const TRACEPARENT: &str = "traceparent";
const SAMPLED: u8 = 1;

/// Which trace something belongs to, and which span of it is its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace: u128,
    pub span: u64,
    pub sampled: bool,
}

impl TraceContext {
    /// `None` for what is none (section 3.2.2): who sends it is treated as one who sends nothing.
    pub fn parse(value: &[u8]) -> Option<TraceContext> {
        // A later version may say more behind a dash.
        let (head, rest) = value.split_at_checked(55)?;
        let version = hex(&head[..2])?;
        let whole = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        if !whole || [2, 35, 52].iter().any(|&dash| head[dash] != b'-') {
            return None;
        }
        let (trace, span, flags) = (hex(&head[3..35])?, hex(&head[36..52])? as u64, hex(&head[53..])? as u8);
        (trace != 0 && span != 0).then_some(TraceContext { trace, span, sampled: flags & SAMPLED != 0 })
    }

    /// The same trace below another span.
    pub fn below(self, span: u64) -> TraceContext {
        TraceContext { span, ..self }
    }
}

/// Lower case alone, as section 3.2.2 has it.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value: u128, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_none_is_nothing() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::parse(text.as_bytes()).unwrap();
        assert_eq!(
            (context.trace, context.span),
            (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7)
        );
        assert!(context.sampled);
        assert_eq!(context.to_string(), text);
        let with_flags = |flags: &str| TraceContext::parse(format!("{}{flags}", &text[..53]).as_bytes());
        assert!(!with_flags("00").unwrap().sampled);
        assert!(with_flags("ff").unwrap().sampled);
        let later = format!("cc{}-more", &text[2..]);
        assert_eq!(TraceContext::parse(later.as_bytes()), Some(context));
        for wrong in [
            "",
            "00",
            &text[..54],
            &format!("{text}-more"),
            &format!("ff{}", &text[2..]),
            &text.to_uppercase(),
            &text.replace('-', "_"),
            &text.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &text.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &text.replace("4bf9", "4bfg"),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ä",
        ] {
            assert_eq!(TraceContext::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}

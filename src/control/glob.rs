//! Channel patterns in the way of gobwas/glob without separators: `*` and `**` any text, `?` any character,
//! `[abc]`, `[a-z]`, `[!a-z]` one of a set, `{a,b}` alternatives, `\` takes the next character as it is.
//!
//! Matching runs on shards over every channel, so it must not blow up on any pattern: alternatives are expanded when
//! the pattern is read (bounded), and each is matched greedily in at most pattern × name steps.

/// Most alternatives of a pattern after expansion.
const ALTERNATIVES_MAX: usize = 64;
/// Longest pattern in bytes: the longest channel name that can be configured.
const PATTERN_BYTES_MAX: usize = 4096;

/// A pattern that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    alternatives: Vec<Vec<Piece>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    One(char),
    AnyOne,
    AnyText,
    Set { ranges: Vec<(char, char)>, negated: bool },
}

/// The pattern cannot be read, or has too many alternatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPattern;

impl Glob {
    /// # Errors
    /// [`BadPattern`] for an unclosed bracket, brace or escape, a backward range, nested braces, or too much of it.
    pub fn new(pattern: &str) -> Result<Glob, BadPattern> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(BadPattern);
        }
        let mut alternatives = vec![Vec::new()];
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            if c != '{' {
                let piece = read_piece(c, &mut chars)?;
                for alternative in &mut alternatives {
                    push(alternative, piece.clone());
                }
                continue;
            }
            let branches = read_branches(&mut chars)?;
            if alternatives.len() * branches.len() > ALTERNATIVES_MAX {
                return Err(BadPattern);
            }
            alternatives = alternatives
                .iter()
                .flat_map(|head| {
                    branches.iter().map(|branch| {
                        let mut whole = head.clone();
                        branch.iter().for_each(|piece| push(&mut whole, piece.clone()));
                        whole
                    })
                })
                .collect();
        }
        Ok(Glob { alternatives })
    }

    pub fn matches(&self, name: &str) -> bool {
        self.alternatives.iter().any(|pieces| matches_pieces(pieces, name))
    }
}

/// What stands between `{` and `}`, split at commas.
fn read_branches(chars: &mut std::str::Chars<'_>) -> Result<Vec<Vec<Piece>>, BadPattern> {
    let mut branches = vec![Vec::new()];
    loop {
        match chars.next().ok_or(BadPattern)? {
            '}' => return Ok(branches),
            ',' => branches.push(Vec::new()),
            '{' => return Err(BadPattern),
            c => {
                let piece = read_piece(c, chars)?;
                if let Some(branch) = branches.last_mut() {
                    push(branch, piece);
                }
            }
        }
    }
}

fn read_piece(c: char, chars: &mut std::str::Chars<'_>) -> Result<Piece, BadPattern> {
    Ok(match c {
        '*' => Piece::AnyText,
        '?' => Piece::AnyOne,
        '\\' => Piece::One(chars.next().ok_or(BadPattern)?),
        '[' => read_set(chars)?,
        c => Piece::One(c),
    })
}

/// What stands after `[`, up to its `]`.
fn read_set(chars: &mut std::str::Chars<'_>) -> Result<Piece, BadPattern> {
    let mut members = Vec::new();
    loop {
        match chars.next().ok_or(BadPattern)? {
            ']' => break,
            '\\' => members.push((chars.next().ok_or(BadPattern)?, true)),
            c => members.push((c, false)),
        }
    }
    let negated = members.first() == Some(&('!', false));
    let members = &members[usize::from(negated)..];
    if members.is_empty() {
        return Err(BadPattern);
    }
    let mut ranges = Vec::new();
    let mut rest = members;
    while let Some((&(low, _), after)) = rest.split_first() {
        rest = after;
        if let [('-', false), (high, _), after @ ..] = rest {
            if low > *high {
                return Err(BadPattern);
            }
            ranges.push((low, *high));
            rest = after;
        } else {
            ranges.push((low, low));
        }
    }
    Ok(Piece::Set { ranges, negated })
}

/// Runs of stars are one star.
fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    if piece != Piece::AnyText || pieces.last() != Some(&Piece::AnyText) {
        pieces.push(piece);
    }
}

/// Greedy with one step back: after a mismatch only the latest star takes one more character. An earlier star never
/// has to, because the latest one can take whatever the earlier would have given up.
fn matches_pieces(pieces: &[Piece], name: &str) -> bool {
    let mut at = 0;
    let mut rest = name.chars();
    let mut star: Option<(usize, std::str::Chars<'_>)> = None;
    loop {
        if pieces.get(at) == Some(&Piece::AnyText) {
            at += 1;
            star = Some((at, rest.clone()));
            continue;
        }
        let mut ahead = rest.clone();
        match (pieces.get(at), ahead.next()) {
            (None, None) => return true,
            (Some(piece), Some(c)) if piece.takes(c) => {
                at += 1;
                rest = ahead;
            }
            // A piece is left and no text: giving the star more would leave even less.
            (Some(_), None) => return false,
            _ => {
                let Some((after_star, taken)) = &mut star else { return false };
                taken.next();
                at = *after_star;
                rest = taken.clone();
            }
        }
    }
}

impl Piece {
    fn takes(&self, c: char) -> bool {
        match self {
            Piece::One(one) => *one == c,
            Piece::AnyOne => true,
            Piece::AnyText => false,
            Piece::Set { ranges, negated } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_the_field_does() {
        for (pattern, yes, no) in [
            ("*", &["", "a", "chat:lobby/1"][..], &[][..]),
            ("chat:*", &["chat:", "chat:a:b"], &["chat", "xchat:a"]),
            ("**", &["a/b"], &[]),
            ("?", &["a", "é"], &["", "ab"]),
            ("a?c*", &["abc", "abcd"], &["ac"]),
            ("[abc]", &["a", "c"], &["d", "", "ab"]),
            ("[a-c]x", &["bx"], &["dx"]),
            ("[!a-c]", &["d"], &["a", ""]),
            ("[a-]", &["a", "-"], &["b"]),
            ("{chat,game}:*", &["chat:1", "game:"], &["gam:1", "chat"]),
            ("a{,b?}", &["a", "abc"], &["ab"]),
            ("\\*", &["*"], &["a"]),
            ("[\\]]", &["]"], &["a"]),
            ("*a*b*", &["ab", "xaybz", "aab"], &["ba", "a"]),
            ("*ab", &["aab", "abab"], &["aba"]),
        ] {
            let glob = Glob::new(pattern).unwrap();
            yes.iter().for_each(|name| assert!(glob.matches(name), "{pattern} should take {name}"));
            no.iter().for_each(|name| assert!(!glob.matches(name), "{pattern} should not take {name}"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for pattern in ["[", "[]", "[!]", "{a", "\\", "[b-a]", "{a,{b}}", "[\\"] {
            assert_eq!(Glob::new(pattern), Err(BadPattern), "{pattern}");
        }
        assert_eq!(Glob::new(&"{a,b}".repeat(7)), Err(BadPattern), "128 alternatives");
        assert!(Glob::new(&"{a,b}".repeat(6)).is_ok());
        assert_eq!(Glob::new(&"a".repeat(5000)), Err(BadPattern));
    }

    /// A backtracking matcher takes longer than the age of the universe for this.
    #[test]
    fn many_stars_stay_cheap() {
        let glob = Glob::new(&("a*".repeat(100) + "b")).unwrap();
        assert!(!glob.matches(&"a".repeat(4000)));
    }

    /// The obvious matcher, which may take for ever: what the greedy one must agree with.
    fn matches_naively(pieces: &[Piece], name: &[char]) -> bool {
        match (pieces.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((Piece::AnyText, rest)), _) => {
                (0..=name.len()).any(|taken| matches_naively(rest, &name[taken..]))
            }
            (Some((piece, pieces)), Some((&c, name))) => piece.takes(c) && matches_naively(pieces, name),
            _ => false,
        }
    }

    #[test]
    fn greed_agrees_with_trying_everything() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let pattern: String =
                (0..random.usize(..7)).map(|_| *random.choice(&['a', 'b', '*', '?', '*']).unwrap()).collect();
            let name: String = (0..random.usize(..8)).map(|_| *random.choice(&['a', 'b']).unwrap()).collect();
            let glob = Glob::new(&pattern).unwrap();
            let chars: Vec<char> = name.chars().collect();
            let expected = matches_naively(&glob.alternatives[0], &chars);
            assert_eq!(glob.matches(&name), expected, "{pattern} and {name}");
        }
    }
}

//! Messages with places: `{channel}`, `{index}`, `{number}`, `{data}`, and `{string}`, which is the data as a JSON string.

/// A text cut at its places once, so that filling it in is copying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Channel,
    ChannelIndex,
    Number,
    Data,
    DataString,
}

const PLACES: [(&str, Piece); 5] = [
    ("{channel}", Piece::Channel),
    ("{index}", Piece::ChannelIndex),
    ("{number}", Piece::Number),
    ("{data}", Piece::Data),
    ("{string}", Piece::DataString),
];

/// What a template is filled with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filling<'a> {
    pub channel: &'a str,
    pub index: u32,
    pub number: u32,
    pub data: &'a [u8],
}

impl Template {
    /// Any text is a template; braces that name no place stay as they are.
    pub fn new(text: &str) -> Template {
        let mut pieces = Vec::new();
        let mut rest = text;
        loop {
            let next = PLACES
                .iter()
                .filter_map(|(name, piece)| rest.find(name).map(|at| (at, *name, piece)))
                .min_by_key(|(at, ..)| *at);
            let Some((at, name, piece)) = next else { break };
            if at > 0 {
                pieces.push(Piece::Text(rest[..at].into()));
            }
            pieces.push(piece.clone());
            rest = &rest[at + name.len()..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        Template(pieces)
    }

    pub fn fill(&self, with: Filling<'_>, out: &mut Vec<u8>) {
        use std::io::Write as _;
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Channel => out.extend_from_slice(with.channel.as_bytes()),
                Piece::ChannelIndex => drop(write!(out, "{}", with.index)),
                Piece::Number => drop(write!(out, "{}", with.number)),
                Piece::Data => out.extend_from_slice(with.data),
                Piece::DataString => {
                    // A vector takes all of it.
                    let _ = serde_json::to_writer(&mut *out, &String::from_utf8_lossy(with.data));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_and_other_braces_stay() {
        let template = Template::new(r#"{"sub":"{channel}","n":{number},"x":{},"d":{data}}"#);
        let mut out = Vec::new();
        template.fill(Filling { channel: "c1", index: 1, number: 9, data: b"{\"a\":1}" }, &mut out);
        assert_eq!(out, br#"{"sub":"c1","n":9,"x":{},"d":{"a":1}}"#);
        let mut out = Vec::new();
        Template::new("{string}").fill(Filling { data: b"{\"a\":1}", ..Filling::default() }, &mut out);
        assert_eq!(out, br#""{\"a\":1}""#);
        let mut out = Vec::new();
        Template::new("").fill(Filling::default(), &mut out);
        assert!(out.is_empty());
    }
}

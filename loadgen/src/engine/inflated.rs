//! Messages that come compressed: the same one reaches many connections, and each thread inflates it once.

use trunkline::proto::websocket::deflate::Inflater;
use trunkline::proto::websocket::{Message, WsFault};

#[derive(Default)]
pub struct Inflated {
    inflater: Inflater,
    /// The last payload and what it holds.
    payload: Vec<u8>,
    message: Vec<u8>,
}

impl Inflated {
    /// What `payload` holds.
    ///
    /// # Errors
    /// Its server has not compressed it as agreed on.
    pub fn message(&mut self, text: bool, payload: &[u8], bytes_max: usize) -> Result<&[u8], WsFault> {
        if self.payload.is_empty() || self.payload != payload {
            let message = match self.inflater.message(text, payload, bytes_max)? {
                Message::Text(text) => text.as_bytes(),
                Message::Binary(bytes) => bytes,
                _ => &[],
            };
            self.message.clear();
            self.message.extend_from_slice(message);
            self.payload.clear();
            self.payload.extend_from_slice(payload);
        }
        Ok(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use trunkline::proto::websocket::deflate::{CompressionOptions, Deflater};
    use trunkline::proto::websocket::{Decoder, Opcode, Role};

    use super::*;

    #[test]
    fn each_payload_gives_its_own_message_however_often_it_comes() {
        let mut deflater = Deflater::new(CompressionOptions { bytes_min: 1, level: 6 });
        let mut inflated = Inflated::default();
        for round in 0..20 {
            let text = format!("message {} ", round / 3).repeat(20);
            let mut frame = deflater.frame(Opcode::Text, text.as_bytes());
            let mut decoder = Decoder::new(Role::Client, 1 << 20).deflating(true);
            let (_, message) = decoder.decode(&mut frame).unwrap();
            let Some(Message::Compressed { text: true, payload }) = message else { panic!("{message:?}") };
            assert_eq!(inflated.message(true, payload, 1 << 20), Ok(text.as_bytes()));
        }
        assert_eq!(inflated.message(false, &[0xff; 9], 10).map_err(|fault| fault.close_code), Err(1007));
    }
}

//! Pusher channels, protocol 7: JSON events over WebSocket, published by signed HTTP requests.

use memchr::memmem;
use serde::Deserialize;

use super::{Client, Outgoing, Profile, Said, Wire};
use crate::measure::Cause;

pub struct Pusher {
    pub key: String,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    event: std::borrow::Cow<'a, str>,
    #[serde(default)]
    data: serde_json::Value,
}

impl Profile for Pusher {
    fn name(&self) -> &'static str {
        "pusher"
    }

    fn wire(&self) -> Wire {
        Wire::WebSocket { subprotocols: Vec::new() }
    }

    fn target(&self, _: &Client<'_>) -> String {
        format!("/app/{}?protocol=7&client=loadgen&version=1", self.key)
    }

    /// The server speaks first.
    fn open(&self, _: &mut Client<'_>, _: &mut Outgoing) -> Said {
        Said::default()
    }

    fn handle(&self, client: &mut Client<'_>, message: &[u8], out: &mut Outgoing) -> Result<Said, Cause> {
        let mut said = Said::default();
        if memmem::find(message, b"\"pusher").is_none() {
            // An event of a channel: its mark is found by the caller.
            return Ok(said);
        }
        let event: Event<'_> =
            serde_json::from_slice(message).map_err(|_| Cause::Protocol("an event that is no JSON"))?;
        match &*event.event {
            "pusher:connection_established" => {
                for channel in client.audience.channels_of(client.number) {
                    let channel = client.audience.name(channel);
                    let event = format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{channel}"}}}}"#);
                    out.text(event.as_bytes());
                }
                said.ready = client.audience.per_connection == 0;
            }
            "pusher_internal:subscription_succeeded" => {
                *client.step = client.step.saturating_add(1);
                said.ready = u32::from(*client.step) == client.audience.per_connection;
            }
            "pusher:ping" => {
                said.pings = 1;
                out.text(br#"{"event":"pusher:pong","data":{}}"#);
            }
            "pusher:error" | "pusher:subscription_error" => {
                let code = event.data["code"].as_u64().or(event.data["status"].as_u64());
                return Err(Cause::Refused(code.and_then(|code| code.try_into().ok()).unwrap_or(0)));
            }
            _ => said.others = 1,
        }
        Ok(said)
    }

    /// The server's own ping is all there is that answers.
    fn request(&self, _: &mut Client<'_>, _: &[u8], _: &mut Outgoing) -> bool {
        false
    }
}

/// How an application signs what it publishes: HMAC-SHA256 over method, path and sorted query.
#[derive(Clone, Debug)]
pub struct PusherKeys {
    pub app: String,
    pub key: String,
    pub secret: String,
}

impl PusherKeys {
    /// The request target for a body, at a time in seconds since 1970.
    pub fn target(&self, body: &[u8], unix_s: u64) -> String {
        use hmac::{Hmac, KeyInit, Mac};
        use md5::{Digest, Md5};
        let path = format!("/apps/{}/events", self.app);
        let query = format!(
            "auth_key={}&auth_timestamp={unix_s}&auth_version=1.0&body_md5={}",
            self.key,
            hex(&Md5::digest(body))
        );
        let mut mac =
            Hmac::<sha2::Sha256>::new_from_slice(self.secret.as_bytes()).expect("any length is a key");
        mac.update(format!("POST\n{path}\n{query}").as_bytes());
        format!("{path}?{query}&auth_signature={}", hex(&mac.finalize().into_bytes()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Audience;

    /// The worked example of Pusher's documentation of its HTTP API.
    #[test]
    fn signs_like_the_documented_example() {
        let keys = PusherKeys {
            app: "3".into(),
            key: "278d425bdf160c739803".into(),
            secret: "7ad3773142a6692b25b8".into(),
        };
        let body = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
        let target = keys.target(body, 1_353_088_179);
        assert!(target.contains("body_md5=ec365a775a4cd0599faeb73354201b6f"), "{target}");
        let signature = "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";
        assert!(target.ends_with(&format!("auth_signature={signature}")), "{target}");
    }

    #[test]
    fn is_ready_when_every_channel_has_succeeded() {
        let pusher = Pusher { key: "k".into() };
        let audience = Audience::new(2, 2, "c".into(), false);
        let (mut step, mut positions) = (0, None);
        let mut client =
            Client { number: 0, step: &mut step, positions: &mut positions, audience: &audience };
        let mut out = Outgoing::new();
        out.begin(false);
        let mut hear = |text: &str| {
            out.begin(false);
            let said = pusher.handle(&mut client, text.as_bytes(), &mut out);
            (said, out.bytes().to_vec())
        };
        let (said, sent) =
            hear(r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"1.2\"}"}"#);
        assert!(!said.unwrap().ready);
        assert!(String::from_utf8(sent).unwrap().contains(r#"{"channel":"c1"}"#));
        let succeeded = r#"{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"c0"}"#;
        assert!(!hear(succeeded).0.unwrap().ready);
        assert!(hear(succeeded).0.unwrap().ready);
        assert_eq!(hear(r#"{"event":"pusher:ping","data":{}}"#).0.unwrap().pings, 1);
        let error = r#"{"event":"pusher:error","data":{"code":4001,"message":"x"}}"#;
        assert_eq!(hear(error).0, Err(Cause::Refused(4001)));
        assert!(hear("\"pusher").0.is_err());
    }
}

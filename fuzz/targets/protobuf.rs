//! A frame of commands in Protobuf: what is taken says the same to prost. We are stricter: fields twice, groups and fields
//! of another wire type are refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use trunkline::proto::centrifuge::{Command, Data, Format, Method, decode_frame};

fuzz_target!(|data: &[u8]| {
    let mut commands = decode_frame(Format::Protobuf, data);
    let mut rest = commands.remaining();
    while let Some(command) = commands.next() {
        let Ok(command) = command else { return };
        let message = &rest[..rest.len() - commands.remaining().len()];
        check(message, &command);
        rest = commands.remaining();
    }
});

fn check(message: &[u8], command: &Command<'_>) {
    // Decoding stops at a payload that is not JSON.
    if command.method == Method::NotJson {
        return;
    }
    let theirs = schema::Command::decode_length_delimited(message).expect("prost reads what we take");
    assert_eq!(theirs.id, command.id);
    match &command.method {
        Method::Publish(ours) => {
            let theirs = theirs.publish.expect("a publish");
            assert_eq!(ours.channel, theirs.channel);
            same(ours.data, &theirs.data);
        }
        Method::Subscribe(ours) => {
            let theirs = theirs.subscribe.expect("a subscribe");
            assert_eq!((&*ours.channel, &*ours.token), (&*theirs.channel, &*theirs.token));
            assert_eq!(
                (ours.recover, ours.offset, &*ours.epoch),
                (theirs.recover, theirs.offset, &*theirs.epoch)
            );
            assert_eq!((ours.flag, ours.kind), (theirs.flag, theirs.kind));
            same(ours.data, &theirs.data);
        }
        Method::Connect(ours) => {
            let theirs = theirs.connect.expect("a connect");
            assert_eq!(
                (&*ours.token, &*ours.name, &*ours.version),
                (&*theirs.token, &*theirs.name, &*theirs.version)
            );
            assert_eq!(ours.subs.len(), theirs.subs.len());
            for (channel, since) in &ours.subs {
                let other = &theirs.subs[&**channel];
                assert_eq!((since.offset, &*since.epoch), (other.offset, &*other.epoch));
            }
            same(ours.data, &theirs.data);
        }
        Method::History(ours) => {
            let theirs = theirs.history.expect("a history");
            assert_eq!(
                (&*ours.channel, ours.limit, ours.reverse),
                (&*theirs.channel, theirs.limit, theirs.reverse)
            );
            assert_eq!(ours.since.as_ref().map(|since| since.offset), theirs.since.map(|since| since.offset));
        }
        Method::Rpc { method, data } => {
            let theirs = theirs.rpc.expect("an rpc");
            assert_eq!(**method, *theirs.method);
            same(*data, &theirs.data);
        }
        _ => {}
    }
}

fn same(ours: Option<Data<'_>>, theirs: &[u8]) {
    assert_eq!(ours.map_or(&b""[..], Data::as_bytes), theirs);
}

/// The part of the published `client.proto` that is compared.
mod schema {
    use std::collections::HashMap;

    macro_rules! message {
        ($name:ident { $($(#[$meta:meta])* $field:ident: $of:ty,)* }) => {
            #[derive(Clone, PartialEq, prost::Message)]
            pub struct $name { $($(#[$meta])* pub $field: $of,)* }
        };
    }

    message!(Command {
        #[prost(uint32, tag = "1")] id: u32,
        #[prost(message, optional, tag = "4")] connect: Option<Connect>,
        #[prost(message, optional, tag = "5")] subscribe: Option<Subscribe>,
        #[prost(message, optional, tag = "7")] publish: Option<Publish>,
        #[prost(message, optional, tag = "10")] history: Option<History>,
        #[prost(message, optional, tag = "13")] rpc: Option<Rpc>,
    });
    message!(Connect {
        #[prost(string, tag = "1")] token: String,
        #[prost(bytes = "vec", tag = "2")] data: Vec<u8>,
        #[prost(map = "string, message", tag = "3")] subs: HashMap<String, Subscribe>,
        #[prost(string, tag = "4")] name: String,
        #[prost(string, tag = "5")] version: String,
    });
    message!(Subscribe {
        #[prost(string, tag = "1")] channel: String,
        #[prost(string, tag = "2")] token: String,
        #[prost(bool, tag = "3")] recover: bool,
        #[prost(string, tag = "6")] epoch: String,
        #[prost(uint64, tag = "7")] offset: u64,
        #[prost(bytes = "vec", tag = "8")] data: Vec<u8>,
        #[prost(int64, tag = "14")] flag: i64,
        #[prost(int32, tag = "15")] kind: i32,
    });
    message!(Publish {
        #[prost(string, tag = "1")] channel: String,
        #[prost(bytes = "vec", tag = "2")] data: Vec<u8>,
    });
    message!(History {
        #[prost(string, tag = "1")] channel: String,
        #[prost(int32, tag = "7")] limit: i32,
        #[prost(message, optional, tag = "8")] since: Option<Since>,
        #[prost(bool, tag = "9")] reverse: bool,
    });
    message!(Since {
        #[prost(uint64, tag = "1")]
        offset: u64,
    });
    message!(Rpc {
        #[prost(bytes = "vec", tag = "1")] data: Vec<u8>,
        #[prost(string, tag = "2")] method: String,
    });
}

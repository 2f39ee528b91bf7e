//! Messages that nodes hand each other through a broker or keep in it: those of Centrifugo, byte for byte, so that nodes of
//! both kinds share channels.

use super::encode::write_client_info;
use super::wire::{ProtobufFields, Value, each_field};
use crate::base::bytes::Bytes;
use crate::base::publication::ClientInfo;
use crate::proto::centrifuge::command::CommandFault;
use crate::proto::centrifuge::reply::ClientInfoRef;

/// A publication as a broker has it. Its payload need not be JSON: other nodes take any bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharedPublication {
    pub data: Bytes,
    pub info: Option<ClientInfo>,
    /// 0: none stands in the message.
    pub offset: u64,
    pub tags: Vec<(String, String)>,
    /// Milliseconds since 1970.
    pub time_ms: u64,
}

/// What comes through a channel's subject of a broker that has one form of message for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedPush {
    Publication(SharedPublication),
    Join(ClientInfo),
    Leave(ClientInfo),
}

fn view(info: &ClientInfo) -> ClientInfoRef<'_> {
    ClientInfoRef {
        user: &info.user,
        client: &info.client,
        conn_info: info.conn_info.as_deref(),
        chan_info: info.chan_info.as_deref(),
    }
}

pub fn encode_publication(out: &mut Vec<u8>, publication: &SharedPublication) {
    write_publication(&mut ProtobufFields::new(out), publication);
}

fn write_publication(fields: &mut ProtobufFields<'_>, publication: &SharedPublication) {
    fields.bytes(4, &publication.data);
    if let Some(info) = &publication.info {
        fields.message(5, |fields| write_client_info(fields, &view(info)));
    }
    fields.number(6, publication.offset);
    for (name, value) in &publication.tags {
        fields.message(7, |entry| {
            entry.bytes_always(1, name.as_bytes());
            entry.bytes_always(2, value.as_bytes());
        });
    }
    fields.number(9, publication.time_ms);
}

/// # Errors
/// What is wrong with the message.
pub fn decode_publication(message: &[u8]) -> Result<SharedPublication, CommandFault> {
    let mut publication = SharedPublication::default();
    each_field(message, |number, value| {
        match number {
            4 => publication.data = Bytes::copy_from_slice(value.bytes()?),
            5 => publication.info = Some(decode_client_info(value.bytes()?)?),
            6 => publication.offset = value.unsigned()?,
            7 => publication.tags.push(tag(value)?),
            9 => publication.time_ms = value.signed::<i64>()?.max(0).cast_unsigned(),
            _ => {}
        }
        Ok::<_, CommandFault>(())
    })?;
    Ok(publication)
}

fn tag(value: Value<'_>) -> Result<(String, String), CommandFault> {
    let (mut name, mut text) = (String::new(), String::new());
    each_field(value.bytes()?, |number, value| {
        match number {
            1 => name = value.text()?.into_owned(),
            2 => text = value.text()?.into_owned(),
            _ => {}
        }
        Ok::<_, CommandFault>(())
    })?;
    Ok((name, text))
}

pub fn encode_client_info(out: &mut Vec<u8>, info: &ClientInfo) {
    write_client_info(&mut ProtobufFields::new(out), &view(info));
}

/// # Errors
/// What is wrong with the message.
pub fn decode_client_info(message: &[u8]) -> Result<ClientInfo, CommandFault> {
    let mut info = ClientInfo::default();
    each_field(message, |number, value| {
        match number {
            1 => info.user = value.text()?.into(),
            2 => info.client = value.text()?.into_owned(),
            3 => info.conn_info = filled(value)?,
            4 => info.chan_info = filled(value)?,
            _ => {}
        }
        Ok::<_, CommandFault>(())
    })?;
    Ok(info)
}

fn filled(value: Value<'_>) -> Result<Option<Bytes>, CommandFault> {
    let bytes = value.bytes()?;
    Ok((!bytes.is_empty()).then(|| Bytes::copy_from_slice(bytes)))
}

pub fn encode_push(out: &mut Vec<u8>, channel: &str, push: &SharedPush) {
    let mut fields = ProtobufFields::new(out);
    fields.text(2, channel);
    let mut client = |number, info: &ClientInfo| {
        fields.message(number, |fields| fields.message(1, |fields| write_client_info(fields, &view(info))));
    };
    match push {
        SharedPush::Join(info) => client(5, info),
        SharedPush::Leave(info) => client(6, info),
        SharedPush::Publication(publication) => {
            fields.message(4, |fields| write_publication(fields, publication));
        }
    }
}

/// The channel and what comes through it; `None` for what no node that this one knows of sends.
///
/// # Errors
/// What is wrong with the message.
pub fn decode_push(message: &[u8]) -> Result<Option<(String, SharedPush)>, CommandFault> {
    let (mut channel, mut push) = (String::new(), None);
    let client = |value: Value<'_>| {
        let mut info = ClientInfo::default();
        each_field(value.bytes()?, |number, value| {
            if number == 1 {
                info = decode_client_info(value.bytes()?)?;
            }
            Ok::<_, CommandFault>(())
        })?;
        Ok::<_, CommandFault>(info)
    };
    each_field(message, |number, value| {
        match number {
            2 => channel = value.text()?.into_owned(),
            4 => push = Some(SharedPush::Publication(decode_publication(value.bytes()?)?)),
            5 => push = Some(SharedPush::Join(client(value)?)),
            6 => push = Some(SharedPush::Leave(client(value)?)),
            _ => {}
        }
        Ok::<_, CommandFault>(())
    })?;
    Ok(push.map(|push| (channel, push)))
}

// --- what nodes say to each other

/// What one node says to others, or to one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeMessage {
    /// Who says it.
    pub uid: String,
    pub what: NodeWord,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodeWord {
    Node(NodeStanding),
    Unsubscribe {
        channel: String,
        user: String,
        client: String,
        session: String,
        code: u32,
        reason: String,
    },
    Disconnect {
        user: String,
        whitelist: Vec<String>,
        code: u32,
        reason: String,
        client: String,
        session: String,
    },
    /// It ends.
    Shutdown,
    Subscribe(Box<NodeSubscribe>),
    Notification {
        op: String,
        data: Bytes,
    },
    Refresh {
        user: String,
        client: String,
        expired: bool,
        expire_at: i64,
        info: Bytes,
        session: String,
    },
    /// Of a kind that only other builds know.
    #[default]
    Other,
}

/// What a node says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStanding {
    pub uid: String,
    pub name: String,
    pub version: String,
    pub clients: u32,
    pub users: u32,
    pub channels: u32,
    pub uptime_s: u32,
    pub subs: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSubscribe {
    pub user: String,
    pub channel: String,
    pub presence: bool,
    pub join_leave: bool,
    pub expire_at: i64,
    pub position: bool,
    pub recover: bool,
    pub channel_info: Bytes,
    pub client: String,
    pub data: Bytes,
    pub recover_since: Option<(u64, String)>,
    pub session: String,
}

pub fn encode_node_message(out: &mut Vec<u8>, message: &NodeMessage) {
    let mut params = Vec::new();
    let mut fields = ProtobufFields::new(&mut params);
    let method: u32 = match &message.what {
        NodeWord::Node(node) => {
            fields.text(1, &node.uid);
            fields.text(2, &node.name);
            fields.text(3, &node.version);
            fields.number(4, node.clients);
            fields.number(5, node.users);
            fields.number(6, node.channels);
            fields.number(7, node.uptime_s);
            fields.number(10, node.subs);
            0
        }
        NodeWord::Unsubscribe { channel, user, client, session, code, reason } => {
            fields.text(1, channel);
            fields.text(2, user);
            fields.text(3, client);
            fields.text(4, session);
            fields.number(5, *code);
            fields.text(6, reason);
            1
        }
        NodeWord::Disconnect { user, whitelist, code, reason, client, session } => {
            fields.text(1, user);
            whitelist.iter().for_each(|client| fields.bytes_always(2, client.as_bytes()));
            fields.number(3, *code);
            fields.text(4, reason);
            fields.text(6, client);
            fields.text(7, session);
            2
        }
        NodeWord::Shutdown => 3,
        NodeWord::Subscribe(sub) => {
            fields.text(1, &sub.user);
            fields.text(2, &sub.channel);
            fields.flag(3, sub.presence);
            fields.flag(4, sub.join_leave);
            fields.number(5, sub.expire_at.cast_unsigned());
            fields.flag(6, sub.position);
            fields.flag(7, sub.recover);
            fields.bytes(8, &sub.channel_info);
            fields.text(9, &sub.client);
            fields.bytes(10, &sub.data);
            if let Some((offset, epoch)) = &sub.recover_since {
                fields.message(11, |since| {
                    since.number(1, *offset);
                    since.text(2, epoch);
                });
            }
            fields.text(12, &sub.session);
            6
        }
        NodeWord::Notification { op, data } => {
            fields.text(1, op);
            fields.bytes(2, data);
            7
        }
        NodeWord::Refresh { user, client, expired, expire_at, info, session } => {
            fields.text(1, user);
            fields.text(2, client);
            fields.flag(3, *expired);
            fields.number(4, expire_at.cast_unsigned());
            fields.bytes(5, info);
            fields.text(6, session);
            8
        }
        NodeWord::Other => return,
    };
    let mut fields = ProtobufFields::new(out);
    fields.text(1, &message.uid);
    fields.number(2, method);
    fields.bytes(3, &params);
}

/// # Errors
/// What is wrong with the message.
pub fn decode_node_message(message: &[u8]) -> Result<NodeMessage, CommandFault> {
    let (mut uid, mut method, mut params) = (String::new(), 0u32, &[][..]);
    each_field(message, |number, value| {
        match number {
            1 => uid = value.text()?.into_owned(),
            2 => method = value.unsigned()?,
            3 => params = value.bytes()?,
            _ => {}
        }
        Ok::<_, CommandFault>(())
    })?;
    let mut given = GivenField::default();
    each_field(params, |number, value| {
        given.take(number, value);
        Ok::<_, CommandFault>(())
    })?;
    Ok(NodeMessage { uid, what: given.word(method)? })
}

/// The fields of a message whose kind is known afterwards; of a repeated one, all.
#[derive(Default)]
struct GivenField<'a>(Vec<(u64, Value<'a>)>);

impl<'a> GivenField<'a> {
    fn take(&mut self, number: u64, value: Value<'a>) {
        self.0.push((number, value));
    }

    fn last(&self, number: u64) -> Option<Value<'a>> {
        self.0.iter().rev().find(|(of, _)| *of == number).map(|(_, value)| *value)
    }

    fn text(&self, number: u64) -> Result<String, CommandFault> {
        self.last(number).map_or(Ok(String::new()), |value| Ok(value.text()?.into_owned()))
    }

    fn texts(&self, number: u64) -> Result<Vec<String>, CommandFault> {
        let all = self.0.iter().filter(|(of, _)| *of == number);
        all.map(|(_, value)| Ok(value.text()?.into_owned())).collect()
    }

    fn bytes(&self, number: u64) -> Result<Bytes, CommandFault> {
        self.last(number).map_or(Ok(Bytes::new()), |value| Ok(Bytes::copy_from_slice(value.bytes()?)))
    }

    fn number(&self, number: u64) -> Result<u32, CommandFault> {
        self.last(number).map_or(Ok(0), Value::unsigned)
    }

    fn signed(&self, number: u64) -> Result<i64, CommandFault> {
        self.last(number).map_or(Ok(0), Value::signed)
    }

    fn flag(&self, number: u64) -> Result<bool, CommandFault> {
        self.last(number).map_or(Ok(false), Value::flag)
    }

    fn word(&self, method: u32) -> Result<NodeWord, CommandFault> {
        Ok(match method {
            0 => NodeWord::Node(NodeStanding {
                uid: self.text(1)?,
                name: self.text(2)?,
                version: self.text(3)?,
                clients: self.number(4)?,
                users: self.number(5)?,
                channels: self.number(6)?,
                uptime_s: self.number(7)?,
                subs: self.number(10)?,
            }),
            1 => NodeWord::Unsubscribe {
                channel: self.text(1)?,
                user: self.text(2)?,
                client: self.text(3)?,
                session: self.text(4)?,
                code: self.number(5)?,
                reason: self.text(6)?,
            },
            2 => NodeWord::Disconnect {
                user: self.text(1)?,
                whitelist: self.texts(2)?,
                code: self.number(3)?,
                reason: self.text(4)?,
                client: self.text(6)?,
                session: self.text(7)?,
            },
            3 => NodeWord::Shutdown,
            6 => NodeWord::Subscribe(Box::new(NodeSubscribe {
                user: self.text(1)?,
                channel: self.text(2)?,
                presence: self.flag(3)?,
                join_leave: self.flag(4)?,
                expire_at: self.signed(5)?,
                position: self.flag(6)?,
                recover: self.flag(7)?,
                channel_info: self.bytes(8)?,
                client: self.text(9)?,
                data: self.bytes(10)?,
                recover_since: self.last(11).map(since).transpose()?,
                session: self.text(12)?,
            })),
            7 => NodeWord::Notification { op: self.text(1)?, data: self.bytes(2)? },
            8 => NodeWord::Refresh {
                user: self.text(1)?,
                client: self.text(2)?,
                expired: self.flag(3)?,
                expire_at: self.signed(4)?,
                info: self.bytes(5)?,
                session: self.text(6)?,
            },
            _ => NodeWord::Other,
        })
    }
}

fn since(value: Value<'_>) -> Result<(u64, String), CommandFault> {
    let mut given = GivenField::default();
    each_field(value.bytes()?, |number, value| {
        given.take(number, value);
        Ok::<_, CommandFault>(())
    })?;
    let offset = given.last(1).map_or(Ok(0), Value::unsigned)?;
    Ok((offset, given.text(2)?))
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;

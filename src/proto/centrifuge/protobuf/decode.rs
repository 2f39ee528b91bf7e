//! Protobuf messages into commands.

use std::borrow::Cow;

use super::wire::{Value, delimited, each_field};
use crate::base::filter::{FILTER_DEPTH_MAX, FILTER_NODES_MAX, Filter, FilterNode};
use crate::proto::centrifuge::command::{
    CONNECT_SUBS_MAX, Command, CommandFault, Connect, Data, HistoryCommand, Method, Publish, SeenFields,
    SinceField, Subscribe, by_channel,
};
use crate::proto::centrifuge::json::{self, write};

/// Why a command is not one.
enum Flaw {
    Fault(CommandFault),
    /// A payload that must be JSON and is not: the command is refused, and the connection goes on.
    NotJson,
}

impl From<CommandFault> for Flaw {
    fn from(fault: CommandFault) -> Flaw {
        Flaw::Fault(fault)
    }
}

type Decoded<T> = Result<T, Flaw>;

/// The next message of a frame: an empty one is the answer to a ping. At a fault the frame ends.
pub(in crate::proto::centrifuge) fn command<'a>(frame: &mut &'a [u8]) -> Result<Command<'a>, CommandFault> {
    delimited(frame).and_then(one_command).inspect_err(|_| *frame = &[])
}

fn one_command(message: &[u8]) -> Result<Command<'_>, CommandFault> {
    let (mut id, mut asked, mut seen) = (0u32, None, SeenFields::default());
    each_field(message, |number, value| match number {
        1 => {
            seen.once(0)?;
            id = value.unsigned()?;
            Ok(())
        }
        4..=15 => match asked.replace((number, value.bytes()?)) {
            None => Ok(()),
            Some(_) => Err(CommandFault("more than one method in a command")),
        },
        _ => Ok(()),
    })?;
    let method = match asked.map(|(number, message)| method(number, message)) {
        Some(Err(Flaw::Fault(fault))) => return Err(fault),
        Some(Err(Flaw::NotJson)) => Method::NotJson,
        Some(Ok(Method::Send { data })) => Method::Send { data },
        _ if id == 0 => Method::Pong,
        Some(Ok(method)) => method,
        None => Method::Unknown,
    };
    Ok(Command { id, method })
}

/// The node, the session, and the commands as bytes.
type ProtobufEmulation<'a> = (Cow<'a, str>, Cow<'a, str>, &'a [u8]);

/// Commands of an emulated client.
pub(in crate::proto::centrifuge) fn emulation(message: &[u8]) -> Result<ProtobufEmulation<'_>, CommandFault> {
    let (mut node, mut session, mut data) = (Cow::default(), Cow::default(), &[][..]);
    let mut seen = SeenFields::default();
    each_field(message, |number, value| {
        match number {
            1 => {
                seen.once(2)?;
                node = value.text()?;
            }
            2 => {
                seen.once(0)?;
                session = value.text()?;
            }
            3 => {
                seen.once(1)?;
                data = value.bytes()?;
            }
            _ => {}
        }
        Ok::<_, CommandFault>(())
    })?;
    Ok((node, session, data))
}

fn method(number: u64, message: &[u8]) -> Decoded<Method<'_>> {
    Ok(match number {
        4 => Method::Connect(Box::new(connect(message)?)),
        5 => Method::Subscribe(Box::new(subscribe(message)?)),
        6 => Method::Unsubscribe { channel: only_text(message)? },
        7 => Method::Publish(publish(message)?),
        8 => Method::Presence { channel: only_text(message)? },
        9 => Method::PresenceStats { channel: only_text(message)? },
        10 => Method::History(history(message)?),
        11 => Method::Ping,
        12 => Method::Send { data: data_and_text(message)?.0 },
        13 => {
            let (data, method) = data_and_text(message)?;
            Method::Rpc { method, data }
        }
        14 => Method::Refresh { token: only_text(message)? },
        15 => {
            let (mut channel, mut token) = (Cow::default(), Cow::default());
            fields(message, &[1, 2], |number, value| {
                match number {
                    1 => channel = value.text()?,
                    2 => token = value.text()?,
                    _ => {}
                }
                Ok(())
            })?;
            Method::SubRefresh { channel, token }
        }
        _ => Method::Unknown,
    })
}

fn connect(message: &[u8]) -> Decoded<Connect<'_>> {
    let (mut connect, mut headers) = (Connect::default(), Vec::new());
    fields(message, &[1, 2, 4, 5], |number, value| {
        match number {
            1 => connect.token = value.text()?,
            2 => connect.data = payload(value)?,
            3 => {
                if connect.subs.len() == CONNECT_SUBS_MAX {
                    return Err(CommandFault("too many subscriptions in a connect").into());
                }
                let (channel, sub) = entry(value)?;
                let sub = subscribe(sub.map_or(Ok(&[][..]), Value::bytes)?)?;
                connect.subs.push((
                    channel,
                    SinceField { recover: sub.recover, offset: sub.offset, epoch: sub.epoch },
                ));
            }
            4 => connect.name = value.text()?,
            5 => connect.version = value.text()?,
            6 => {
                let (name, text) = entry(value)?;
                let text = text.map_or(Ok(Cow::default()), Value::text)?;
                headers.push(if headers.is_empty() { b'{' } else { b',' });
                write::string(&mut headers, &name);
                headers.push(b':');
                write::string(&mut headers, &text);
            }
            _ => {}
        }
        Ok(())
    })?;
    by_channel(&mut connect.subs)?;
    if !headers.is_empty() {
        headers.push(b'}');
        connect.headers = String::from_utf8(headers).ok().map(Cow::Owned);
    }
    Ok(connect)
}

fn subscribe(message: &[u8]) -> Decoded<Subscribe<'_>> {
    let mut sub = Subscribe::default();
    fields(message, &[1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], |number, value| {
        match number {
            1 => sub.channel = value.text()?,
            2 => sub.token = value.text()?,
            3 => sub.recover = value.flag()?,
            6 => sub.epoch = value.text()?,
            7 => sub.offset = value.unsigned()?,
            8 => sub.data = payload(value)?,
            9 => sub.positioned = value.flag()?,
            10 => sub.recoverable = value.flag()?,
            11 => sub.join_leave = value.flag()?,
            12 => sub.shape = value.text()?,
            13 => sub.filter = Some(Filter::of(&filter_node(value.bytes()?, 0)?).map(Box::new)),
            14 => sub.flag = value.signed()?,
            15 => sub.kind = value.signed()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(sub)
}

/// A node of a filter. What stands deeper than nodes may is not read: that it is there is enough to refuse it.
fn filter_node(message: &[u8], depth: usize) -> Decoded<FilterNode> {
    let mut node = FilterNode::default();
    if depth > FILTER_DEPTH_MAX {
        return Ok(node);
    }
    fields(message, &[1, 2, 3, 4], |number, value| {
        match number {
            1 => node.op = value.text()?.into_owned(),
            2 => node.key = value.text()?.into_owned(),
            3 => node.cmp = value.text()?.into_owned(),
            4 => node.val = value.text()?.into_owned(),
            5 => node.vals.push(value.text()?.into_owned()),
            6 if node.nodes.len() <= FILTER_NODES_MAX => {
                node.nodes.push(filter_node(value.bytes()?, depth + 1)?)
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(node)
}

fn publish(message: &[u8]) -> Decoded<Publish<'_>> {
    let mut publish = Publish::default();
    fields(message, &[1, 2, 3], |number, value| {
        match number {
            1 => publish.channel = value.text()?,
            2 => publish.data = any_payload(value)?,
            3 => publish.kind = value.signed()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(publish)
}

fn history(message: &[u8]) -> Decoded<HistoryCommand<'_>> {
    let mut history = HistoryCommand::default();
    fields(message, &[1, 7, 8, 9], |number, value| {
        match number {
            1 => history.channel = value.text()?,
            7 => history.limit = value.signed()?,
            8 => {
                let mut since = SinceField { recover: true, ..SinceField::default() };
                fields(value.bytes()?, &[1, 2], |number, value| {
                    match number {
                        1 => since.offset = value.unsigned()?,
                        2 => since.epoch = value.text()?,
                        _ => {}
                    }
                    Ok(())
                })?;
                history.since = Some(since);
            }
            9 => history.reverse = value.flag()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(history)
}

/// A message whose field 1 is a text.
fn only_text(message: &[u8]) -> Decoded<Cow<'_, str>> {
    let mut text = Cow::default();
    fields(message, &[1], |number, value| {
        if number == 1 {
            text = value.text()?;
        }
        Ok(())
    })?;
    Ok(text)
}

/// A message whose field 1 is a payload and field 2 a text.
fn data_and_text(message: &[u8]) -> Decoded<(Option<Data<'_>>, Cow<'_, str>)> {
    let (mut data, mut text) = (None, Cow::default());
    fields(message, &[1, 2], |number, value| {
        match number {
            1 => data = payload(value)?,
            2 => text = value.text()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((data, text))
}

/// An entry of a map: its key and its value, each absent where it is zero.
fn entry<'a>(value: Value<'a>) -> Decoded<(Cow<'a, str>, Option<Value<'a>>)> {
    let (mut key, mut of_key) = (Cow::default(), None);
    fields(value.bytes()?, &[1, 2], |number, value| {
        match number {
            1 => key = value.text()?,
            2 => of_key = Some(value),
            _ => {}
        }
        Ok(())
    })?;
    Ok((key, of_key))
}

/// Empty bytes are no payload: Protobuf does not tell the two apart.
fn any_payload(value: Value<'_>) -> Decoded<Option<Data<'_>>> {
    let bytes = value.bytes()?;
    Ok(match (bytes, json::one_value(bytes)) {
        ([], _) => None,
        (_, Some(text)) => Some(Data::of_json(text)),
        (_, None) => Some(Data::of_bytes(bytes)),
    })
}

/// The same where it must be JSON.
fn payload(value: Value<'_>) -> Decoded<Option<Data<'_>>> {
    let data = any_payload(value)?;
    let not_json = data.is_some_and(|data| data.as_json().is_none());
    if not_json { Err(Flaw::NotJson) } else { Ok(data) }
}

/// The fields of a message. Those of `once` may not come twice, as in the JSON: which of the two somebody in between has
/// checked cannot be known.
fn fields<'a>(
    message: &'a [u8],
    once: &[u64],
    mut field: impl FnMut(u64, Value<'a>) -> Decoded<()>,
) -> Decoded<()> {
    let mut seen = SeenFields::default();
    each_field(message, |number, value| {
        if once.contains(&number) {
            seen.once(number as usize)?;
        }
        field(number, value)
    })
}

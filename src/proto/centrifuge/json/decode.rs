//! JSON objects into commands.

use std::borrow::Cow;

use super::scan::Scanner;
use crate::base::filter::Filter;
use crate::proto::centrifuge::command::{
    CONNECT_SUBS_MAX, Command, CommandFault, Connect, Data, HistoryCommand, Method, Publish, SeenFields,
    SinceField, Subscribe, by_channel,
};

/// The next object of a frame. At a fault the frame ends.
pub(in crate::proto::centrifuge) fn command<'a>(
    scanner: &mut Scanner<'a>,
) -> Result<Command<'a>, CommandFault> {
    if scanner.empty_object() {
        return Ok(Command { id: 0, method: Method::Pong });
    }
    let (mut id, mut method, mut seen) = (0u32, None, SeenFields::default());
    let read = scanner.object(|scanner, key| {
        let Some(place) = METHODS.iter().position(|&(name, _)| name == key) else {
            if key == "id" {
                seen.once(METHODS.len())?;
                return scanner.unsigned(&mut id);
            }
            return scanner.value().map(drop);
        };
        seen.once(place)?;
        if scanner.null() {
            return Ok(());
        }
        let decoded = METHODS[place].1(scanner)?;
        match method.replace(decoded) {
            None => Ok(()),
            Some(_) => Err(CommandFault("more than one method in a command")),
        }
    });
    if let Err(fault) = read {
        scanner.end();
        return Err(fault);
    }
    let method = match method {
        Some(Method::Send { data }) => Method::Send { data },
        _ if id == 0 => Method::Pong,
        Some(method) => method,
        None => Method::Unknown,
    };
    Ok(Command { id, method })
}

/// The connect of a unidirectional client: the object alone, of no command.
pub(in crate::proto::centrifuge) fn lone_connect<'a>(
    scanner: &mut Scanner<'a>,
) -> Result<Command<'a>, CommandFault> {
    let method = connect(scanner).inspect_err(|_| scanner.end())?;
    Ok(Command { id: 1, method })
}

/// The node, the session, and the commands as text.
type JsonEmulation<'a> = (Cow<'a, str>, Cow<'a, str>, Cow<'a, str>);

/// Commands of an emulated client.
pub(in crate::proto::centrifuge) fn emulation<'a>(
    scanner: &mut Scanner<'a>,
) -> Result<JsonEmulation<'a>, CommandFault> {
    let (mut node, mut session, mut data) = (Cow::default(), Cow::default(), Cow::default());
    let mut seen = SeenFields::default();
    scanner.object(|scanner, key| match key {
        "node" => seen.once(2).and_then(|()| scanner.text(&mut node)),
        "session" => seen.once(0).and_then(|()| scanner.text(&mut session)),
        "data" => seen.once(1).and_then(|()| scanner.text(&mut data)),
        _ => scanner.value().map(drop),
    })?;
    match scanner.at_end() {
        true => Ok((node, session, data)),
        false => Err(CommandFault("more than one object")),
    }
}

type Decode = for<'a> fn(&mut Scanner<'a>) -> Result<Method<'a>, CommandFault>;

/// The methods by their key, the frequent ones first.
const METHODS: [(&str, Decode); 12] = [
    ("publish", publish),
    ("subscribe", |scanner| {
        let mut sub = Box::default();
        subscribe(scanner, &mut sub)?;
        Ok(Method::Subscribe(sub))
    }),
    ("rpc", rpc),
    ("send", send),
    ("connect", connect),
    ("unsubscribe", |scanner| Ok(Method::Unsubscribe { channel: only_text(scanner, "channel")? })),
    ("presence", |scanner| Ok(Method::Presence { channel: only_text(scanner, "channel")? })),
    ("presence_stats", |scanner| Ok(Method::PresenceStats { channel: only_text(scanner, "channel")? })),
    ("history", history),
    ("refresh", |scanner| Ok(Method::Refresh { token: only_text(scanner, "token")? })),
    ("sub_refresh", sub_refresh),
    ("ping", |scanner| scanner.object(|scanner, _| scanner.value().map(drop)).map(|()| Method::Ping)),
];

fn connect<'a>(scanner: &mut Scanner<'a>) -> Result<Method<'a>, CommandFault> {
    let (mut connect, mut seen) = (Box::<Connect<'_>>::default(), SeenFields::default());
    scanner.object(|scanner, key| match key {
        "token" => seen.once(0).and_then(|()| scanner.text(&mut connect.token)),
        "data" => seen.once(1).and_then(|()| payload(scanner, &mut connect.data)),
        "subs" => {
            seen.once(2)?;
            connect.subs = subs(scanner)?;
            Ok(())
        }
        "name" => seen.once(3).and_then(|()| scanner.text(&mut connect.name)),
        "version" => seen.once(4).and_then(|()| scanner.text(&mut connect.version)),
        "headers" => {
            seen.once(5)?;
            if scanner.null() {
                return Ok(());
            }
            let headers = scanner.value()?;
            connect.headers = Some(headers.into());
            if headers.starts_with('{') { Ok(()) } else { Err(CommandFault("headers are not an object")) }
        }
        _ => scanner.value().map(drop),
    })?;
    Ok(Method::Connect(connect))
}

fn subs<'a>(scanner: &mut Scanner<'a>) -> Result<Vec<(Cow<'a, str>, SinceField<'a>)>, CommandFault> {
    let mut subs = Vec::new();
    if scanner.null() {
        return Ok(subs);
    }
    scanner.entries(|scanner, channel| {
        if subs.len() == CONNECT_SUBS_MAX {
            return Err(CommandFault("too many subscriptions in a connect"));
        }
        let mut sub = Subscribe::default();
        if !scanner.null() {
            subscribe(scanner, &mut sub)?;
        }
        subs.push((channel, SinceField { recover: sub.recover, offset: sub.offset, epoch: sub.epoch }));
        Ok(())
    })?;
    by_channel(&mut subs)?;
    Ok(subs)
}

fn subscribe<'a>(scanner: &mut Scanner<'a>, sub: &mut Subscribe<'a>) -> Result<(), CommandFault> {
    let mut seen = SeenFields::default();
    scanner.object(|scanner, key| match key {
        "channel" => seen.once(0).and_then(|()| scanner.text(&mut sub.channel)),
        "token" => seen.once(1).and_then(|()| scanner.text(&mut sub.token)),
        "data" => seen.once(2).and_then(|()| payload(scanner, &mut sub.data)),
        "recover" => seen.once(3).and_then(|()| scanner.boolean(&mut sub.recover)),
        "offset" => seen.once(4).and_then(|()| scanner.unsigned(&mut sub.offset)),
        "epoch" => seen.once(5).and_then(|()| scanner.text(&mut sub.epoch)),
        "positioned" => seen.once(6).and_then(|()| scanner.boolean(&mut sub.positioned)),
        "recoverable" => seen.once(7).and_then(|()| scanner.boolean(&mut sub.recoverable)),
        "join_leave" => seen.once(8).and_then(|()| scanner.boolean(&mut sub.join_leave)),
        "delta" => seen.once(9).and_then(|()| scanner.text(&mut sub.shape)),
        "flag" => seen.once(10).and_then(|()| scanner.signed(&mut sub.flag)),
        "type" => seen.once(11).and_then(|()| scanner.signed(&mut sub.kind)),
        "tf" => {
            seen.once(12)?;
            if !scanner.null() {
                sub.filter = Some(Filter::parse(scanner.value()?).map(Box::new));
            }
            Ok(())
        }
        _ => scanner.value().map(drop),
    })
}

fn publish<'a>(scanner: &mut Scanner<'a>) -> Result<Method<'a>, CommandFault> {
    let (mut publish, mut seen) = (Publish::default(), SeenFields::default());
    scanner.object(|scanner, key| match key {
        "channel" => seen.once(0).and_then(|()| scanner.text(&mut publish.channel)),
        "data" => seen.once(1).and_then(|()| payload(scanner, &mut publish.data)),
        "type" => seen.once(2).and_then(|()| scanner.signed(&mut publish.kind)),
        _ => scanner.value().map(drop),
    })?;
    Ok(Method::Publish(publish))
}

fn history<'a>(scanner: &mut Scanner<'a>) -> Result<Method<'a>, CommandFault> {
    let (mut history, mut seen) = (HistoryCommand::default(), SeenFields::default());
    scanner.object(|scanner, key| match key {
        "channel" => seen.once(0).and_then(|()| scanner.text(&mut history.channel)),
        "limit" => seen.once(1).and_then(|()| scanner.signed(&mut history.limit)),
        "since" => {
            seen.once(2)?;
            if !scanner.null() {
                history.since = Some(since(scanner)?);
            }
            Ok(())
        }
        "reverse" => seen.once(3).and_then(|()| scanner.boolean(&mut history.reverse)),
        _ => scanner.value().map(drop),
    })?;
    Ok(Method::History(history))
}

fn since<'a>(scanner: &mut Scanner<'a>) -> Result<SinceField<'a>, CommandFault> {
    let (mut since, mut seen) =
        (SinceField { recover: true, ..SinceField::default() }, SeenFields::default());
    scanner.object(|scanner, key| match key {
        "offset" => seen.once(0).and_then(|()| scanner.unsigned(&mut since.offset)),
        "epoch" => seen.once(1).and_then(|()| scanner.text(&mut since.epoch)),
        _ => scanner.value().map(drop),
    })?;
    Ok(since)
}

fn rpc<'a>(scanner: &mut Scanner<'a>) -> Result<Method<'a>, CommandFault> {
    let (mut method, mut data, mut seen) = (Cow::default(), None, SeenFields::default());
    scanner.object(|scanner, key| match key {
        "method" => seen.once(0).and_then(|()| scanner.text(&mut method)),
        "data" => seen.once(1).and_then(|()| payload(scanner, &mut data)),
        _ => scanner.value().map(drop),
    })?;
    Ok(Method::Rpc { method, data })
}

fn send<'a>(scanner: &mut Scanner<'a>) -> Result<Method<'a>, CommandFault> {
    let (mut data, mut seen) = (None, SeenFields::default());
    scanner.object(|scanner, key| match key {
        "data" => seen.once(0).and_then(|()| payload(scanner, &mut data)),
        _ => scanner.value().map(drop),
    })?;
    Ok(Method::Send { data })
}

fn sub_refresh<'a>(scanner: &mut Scanner<'a>) -> Result<Method<'a>, CommandFault> {
    let (mut channel, mut token, mut seen) = (Cow::default(), Cow::default(), SeenFields::default());
    scanner.object(|scanner, key| match key {
        "channel" => seen.once(0).and_then(|()| scanner.text(&mut channel)),
        "token" => seen.once(1).and_then(|()| scanner.text(&mut token)),
        _ => scanner.value().map(drop),
    })?;
    Ok(Method::SubRefresh { channel, token })
}

/// An object of which one text field matters.
fn only_text<'a>(scanner: &mut Scanner<'a>, name: &str) -> Result<Cow<'a, str>, CommandFault> {
    let (mut text, mut seen) = (Cow::default(), SeenFields::default());
    scanner.object(|scanner, key| {
        if key != name {
            return scanner.value().map(drop);
        }
        seen.once(0)?;
        scanner.text(&mut text)
    })?;
    Ok(text)
}

/// A payload. Null is a payload like any other, as in the published server.
fn payload<'a>(scanner: &mut Scanner<'a>, into: &mut Option<Data<'a>>) -> Result<(), CommandFault> {
    *into = Some(Data::of_json(scanner.value()?));
    Ok(())
}

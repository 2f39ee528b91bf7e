//! Tasks as commands of Redis, and its answers as what came of them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use redis::{Cmd, ServerErrorKind, Value, cmd};

use crate::base::bytes::Bytes;
use crate::base::ids::{ChannelName, Epoch, Offset, Position};
use crate::base::publication::{ClientInfo, Encoded, PayloadForm, Publication};
use crate::engine::job::{Done, EngineFault, LogEntries, Task};
use crate::engine::limits::{KEY_TTL_S, PRESENCE_TTL_S};
use crate::engine::redis::layout::{RedisNames, is_json, offset_of_id, read_epoch, write_event};
use crate::engine::redis::scripts::{self, Lua};
use crate::proto::centrifuge::shared::{
    SharedPublication, decode_client_info, decode_publication, encode_client_info, encode_publication,
};
use crate::telemetry::sparing::log_peer_once_a_minute;

/// What stands where a payload would that is no JSON: subscribers must be able to read what they get.
const NOT_JSON: &[u8] = b"null";

/// The command of a task. `by_hash`: a script is called by its hash, which the server may have forgotten.
pub fn command(task: &Task, names: &RedisNames, by_hash: bool) -> Cmd {
    let script = |lua: &Lua, keys: &[&str]| {
        let mut command = match by_hash {
            true => cmd("EVALSHA").arg(&lua.hash).to_owned(),
            false => cmd("EVAL").arg(lua.source).to_owned(),
        };
        command.arg(keys.len());
        keys.iter().for_each(|key| _ = command.arg(*key));
        command
    };
    match task {
        Task::Publish { channel, publication, log, key, version, version_epoch } => {
            let mut message = Vec::with_capacity(publication.data.len() + 64);
            encode_publication(&mut message, publication);
            let result = names.result(channel, key.as_deref().unwrap_or_default());
            let to = names.client(channel);
            let result_ttl = if key.is_some() { KEY_TTL_S.to_string() } else { String::new() };
            match log {
                Some(log) => {
                    let (stream, meta) = (names.stream(channel), names.meta(channel));
                    let mut command = script(&scripts::PUBLISH, &[&stream, &meta, &result]);
                    command.arg(&message).arg(log.size).arg(log.ttl_s).arg(&to).arg(log.meta_ttl_s);
                    command.arg(new_epoch()).arg(result_ttl).arg(*version).arg(&**version_epoch);
                    command
                }
                None if key.is_some() => {
                    let mut command = script(&scripts::PUBLISH_ONCE, &[&result]);
                    command.arg(&message).arg(&to).arg(result_ttl);
                    command
                }
                None => cmd("PUBLISH").arg(&to).arg(&message).to_owned(),
            }
        }
        Task::Event { channel, joined, info } => {
            cmd("PUBLISH").arg(names.client(channel)).arg(write_event(*joined, info)).to_owned()
        }
        Task::History(read) => {
            let (stream, meta) = (names.stream(&read.channel), names.meta(&read.channel));
            let mut command = script(&scripts::HISTORY, &[&stream, &meta]);
            let wanted = read.entries.is_some();
            let none = LogEntries { from: 0, limit: 0, backwards: false };
            let LogEntries { from, limit, backwards } = read.entries.unwrap_or(none);
            command.arg(u8::from(wanted)).arg(from).arg(limit).arg(u8::from(backwards));
            command.arg(read.terms.meta_ttl_s).arg(new_epoch());
            command
        }
        Task::HistoryRemove(channel) => cmd("DEL").arg(names.stream(channel)).to_owned(),
        Task::PresenceAdd { channel, info } => {
            let (expire, data) = (names.presence_expire(channel), names.presence_data(channel));
            let mut message = Vec::new();
            encode_client_info(&mut message, info);
            let mut command = script(&scripts::PRESENCE_ADD, &[&expire, &data]);
            command.arg(PRESENCE_TTL_S).arg(unix_s() + PRESENCE_TTL_S).arg(&info.client).arg(message);
            command
        }
        Task::PresenceRemove { channel, client } => {
            let (expire, data) = (names.presence_expire(channel), names.presence_data(channel));
            let mut command = script(&scripts::PRESENCE_REMOVE, &[&expire, &data]);
            command.arg(client);
            command
        }
        Task::Presence(channel) => {
            let (expire, data) = (names.presence_expire(channel), names.presence_data(channel));
            let mut command = script(&scripts::PRESENCE, &[&expire, &data]);
            command.arg(unix_s());
            command
        }
        Task::Say { node, message } => {
            let to = node.as_ref().map_or_else(|| names.control(), |uid| names.node(uid));
            cmd("PUBLISH").arg(to).arg(message).to_owned()
        }
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// At random: a server that is emptied twice within a second must not give one epoch twice.
fn new_epoch() -> String {
    Epoch(u64::from(fastrand::u32(1..))).to_string()
}

/// What an answer says about a whole connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisTrouble {
    /// The server has forgotten the script: nothing was done.
    UnknownScript,
    /// It is a replica now: its master is elsewhere.
    ReadOnly,
}

/// What came of a task, by the server's answer.
///
/// # Errors
/// What is to be done about the connection before it counts as a fault.
pub fn outcome(task: &Task, answer: Value) -> Result<Result<Done, EngineFault>, RedisTrouble> {
    if let Value::ServerError(error) = &answer {
        return match error.kind() {
            Some(ServerErrorKind::NoScript) => Err(RedisTrouble::UnknownScript),
            Some(ServerErrorKind::ReadOnly) => Err(RedisTrouble::ReadOnly),
            _ => Ok(Err(fault_of(error.code(), error.details().unwrap_or_default()))),
        };
    }
    let done = match task {
        Task::Publish { log: Some(_), .. } => published(&answer).map(Done::Published),
        Task::Publish { log: None, .. } => Some(Done::Published(Position::UNKNOWN)),
        Task::History(read) => return Ok(log(&read.channel, read.terms.payload, answer)),
        Task::Presence(_) => members(answer).map(Done::Members),
        _ => Some(Done::Nothing),
    };
    Ok(done.ok_or_else(|| {
        log_peer_once_a_minute(
            "engine_answer",
            "the engine's server gives an answer of an unknown form",
            || None,
        );
        EngineFault::Refused
    }))
}

/// Whether trying again can help, by what the server calls its error.
pub fn fault_of(code: &str, detail: &str) -> EngineFault {
    let away =
        matches!(code, "OOM" | "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MISCONF")
            || matches!(code, "NOREPLICAS" | "READONLY" | "MOVED" | "ASK");
    // A script passes an error on inside its own.
    let within = ["OOM ", "READONLY ", "MISCONF "].iter().any(|inner| detail.contains(inner));
    tracing::debug!("the engine's server refuses a command: {code} {detail}");
    let what: (&'static str, &'static str) = match code {
        "OOM" => ("engine_oom", "the engine's server is out of memory (OOM): it takes nothing more"),
        "WRONGTYPE" => (
            "engine_wrongtype",
            "a key of the engine has a wrong type (WRONGTYPE): something else uses engine.prefix there",
        ),
        "NOPERM" => {
            ("engine_noperm", "the engine's user may not run a command (NOPERM): see docs/scaling.md")
        }
        _ if away || within => ("engine_busy", "the engine's server does not take commands now"),
        _ => ("engine_error", "the engine's server refuses a command"),
    };
    log_peer_once_a_minute(what.0, what.1, || None);
    if away || within { EngineFault::Away } else { EngineFault::Refused }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        value => std::str::from_utf8(bytes(value)?).ok()?.parse().ok(),
    }
}

fn position(offset: &Value, epoch: &Value) -> Option<Position> {
    Some(Position { offset: Offset(number(offset)?), epoch: read_epoch(bytes(epoch)?).ok()? })
}

fn published(answer: &Value) -> Option<Position> {
    let Value::Array(parts) = answer else { return None };
    position(parts.first()?, parts.get(1)?)
}

fn log(channel: &ChannelName, form: PayloadForm, answer: Value) -> Result<Done, EngineFault> {
    let Value::Array(mut parts) = answer else { return Err(EngineFault::Refused) };
    let entries = if parts.len() > 2 { parts.pop() } else { None };
    let [offset, epoch] = parts.as_slice() else { return Err(EngineFault::Refused) };
    let position = position(offset, epoch).ok_or(EngineFault::Refused)?;
    let entries = match entries {
        Some(Value::Array(entries)) => entries,
        _ => Vec::new(),
    };
    let mut publications = Vec::with_capacity(entries.len());
    for entry in &entries {
        let Some((offset, message)) = entry_of(entry) else { return Err(EngineFault::Refused) };
        let shared = decode_publication(message).map_err(|_| {
            log_peer_once_a_minute(
                "engine_foreign",
                "an entry of a log in the engine is no publication",
                || None,
            );
            EngineFault::Refused
        })?;
        let at = Position { offset, epoch: position.epoch };
        publications.push(Arc::new(publication(channel, form, at, shared)));
    }
    Ok(Done::Log(publications, position))
}

/// Offset and message of a stream's entry.
fn entry_of(entry: &Value) -> Option<(Offset, &[u8])> {
    let Value::Array(parts) = entry else { return None };
    let offset = offset_of_id(bytes(parts.first()?)?)?;
    let Value::Array(fields) = parts.get(1)? else { return None };
    let found = fields.chunks_exact(2).find(|pair| bytes(&pair[0]) == Some(b"d"))?;
    Some((offset, bytes(&found[1])?))
}

/// What others have published, as subscribers get it.
pub fn publication(
    channel: &ChannelName,
    form: PayloadForm,
    position: Position,
    shared: SharedPublication,
) -> Publication {
    let mut data = shared.data;
    if form == PayloadForm::Json && !is_json(&data) {
        log_peer_once_a_minute(
            "engine_not_json",
            "a publication of another node is no JSON: null is delivered",
            || None,
        );
        data = Bytes::from_static(NOT_JSON);
    }
    let info = shared.info.map(|mut info| {
        for raw in [&mut info.conn_info, &mut info.chan_info] {
            if raw.as_ref().is_some_and(|raw| !is_json(raw)) {
                *raw = None;
            }
        }
        info
    });
    Publication {
        channel: channel.clone(),
        position,
        data,
        info,
        tags: shared.tags,
        time_ms: shared.time_ms,
        except: None,
        encoded: Encoded::default(),
    }
}

fn members(answer: Value) -> Option<Vec<Arc<ClientInfo>>> {
    let pairs: Vec<Value> = match answer {
        Value::Array(parts) => parts.into_iter().skip(1).step_by(2).collect(),
        Value::Map(pairs) => pairs.into_iter().map(|(_, info)| info).collect(),
        Value::Nil => Vec::new(),
        _ => return None,
    };
    // One that cannot be read is not there.
    Some(pairs.iter().filter_map(|info| decode_client_info(bytes(info)?).ok().map(Arc::new)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::job::{LogRead, LogTerms};

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn packed(task: &Task, cluster: bool) -> String {
        let names = RedisNames { prefix: "p".into(), is_cluster: cluster };
        String::from_utf8_lossy(&command(task, &names, true).get_packed_command()).into_owned()
    }

    #[test]
    fn a_publish_is_one_call_of_a_script_with_the_keys_of_its_channel() {
        let publish = |log, key: Option<&str>| Task::Publish {
            channel: "c".into(),
            publication: Box::new(SharedPublication {
                data: Bytes::from_static(b"1"),
                ..SharedPublication::default()
            }),
            log,
            key: key.map(Into::into),
            version: 7,
            version_epoch: "ve".into(),
        };
        let terms = LogTerms { size: 10, ttl_s: 60, meta_ttl_s: 600, payload: PayloadForm::Json };
        let logged = packed(&publish(Some(terms), Some("k")), true);
        for part in [
            "EVALSHA",
            &scripts::PUBLISH.hash,
            "p.stream.{c}",
            "p.stream.meta.{c}",
            "p.result.{c}.k",
            "p.client.c",
        ] {
            assert!(logged.contains(part), "{part}: {logged}");
        }
        assert!(logged.contains("\r\n300\r\n") && logged.contains("\r\n600\r\n"));
        assert!(
            packed(&publish(None, None), false).starts_with("*3\r\n$7\r\nPUBLISH\r\n$10\r\np.client.c\r\n")
        );
        assert!(packed(&publish(None, Some("k")), false).contains(&scripts::PUBLISH_ONCE.hash));
    }

    #[test]
    fn answers_are_read_and_others_are_faults() {
        let read_as = |payload| {
            let terms = LogTerms { size: 10, ttl_s: 60, meta_ttl_s: 0, payload };
            Task::History(LogRead { channel: "c".into(), entries: None, terms })
        };
        let read = read_as(PayloadForm::Json);
        let entry = |id: &str, field: &str, message: &[u8]| {
            Value::Array(vec![text(id), Value::Array(vec![text(field), Value::BulkString(message.to_vec())])])
        };
        let answer =
            |entries: Vec<Value>| Value::Array(vec![Value::Int(9), text("abcd"), Value::Array(entries)]);
        let Ok(Ok(Done::Log(found, position))) =
            outcome(&read, answer(vec![entry("9-0", "d", b"\x22\x03abc")]))
        else {
            panic!("a log")
        };
        assert_eq!((position.offset, position.epoch.to_string().as_str()), (Offset(9), "abcd"));
        assert_eq!(
            (found[0].offset(), &found[0].data[..]),
            (Offset(9), &b"null"[..]),
            "no JSON is delivered"
        );
        let bytes = read_as(PayloadForm::Bytes);
        let Ok(Ok(Done::Log(found, _))) =
            outcome(&bytes, answer(vec![entry("9-0", "d", b"\x22\x03a\n\xff")]))
        else {
            panic!("a log")
        };
        assert_eq!(&found[0].data[..], b"a\n\xff", "bytes, where the namespace has them");
        for wrong in [entry("9", "d", b""), entry("9-0", "x", b""), entry("9-0", "d", b"\xff"), Value::Nil] {
            assert!(matches!(outcome(&read, answer(vec![wrong])), Ok(Err(EngineFault::Refused))));
        }
        assert!(matches!(outcome(&read, Value::Okay), Ok(Err(EngineFault::Refused))));
        for (code, away) in [("OOM", true), ("LOADING", true), ("WRONGTYPE", false), ("NOPERM", false)] {
            assert_eq!(fault_of(code, "") == EngineFault::Away, away, "{code}");
        }
        assert_eq!(fault_of("ERR", "x script: OOM command not allowed"), EngineFault::Away);
    }
}

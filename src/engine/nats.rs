//! NATS as what carries publications between nodes: at most once, nothing is kept.
//!
//! | what | subject | content |
//! |---|---|---|
//! | publications, joins, leaves | `P.client.C` | a push of the published schema |
//! | between nodes | `P.control`, `P.node.UID` | node messages |
//!
//! `P` is the prefix, `C` the channel: the subjects and messages of Centrifugo, so that nodes of both kinds share them. A
//! channel whose name is no subject (blanks, `*`, `>`, an empty part between dots) does not exist here.
//!
//! The client library makes a lost connection again, with all subscriptions. Meanwhile the server counts as away: nothing is
//! held back for it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event as NatsEvent, Subscriber};
use futures_core::Stream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use url::Url;

use crate::base::ids::{ChannelName, Position};
use crate::engine::inlet::{Incoming, Inlet, InletEvent};
use crate::engine::job::{Done, EngineFault, EngineJob, Task};
use crate::engine::limits::{RECONNECT_MAX, RECONNECT_MIN};
use crate::engine::link::{EngineLink, LinkChange};
use crate::engine::redis::layout::RedisMessage;
use crate::engine::redis::percent;
use crate::engine::standing::{Stands, SubscriptionStanding, is_untrusted};
use crate::proto::centrifuge::shared::{SharedPublication, SharedPush, decode_push, encode_push};
use crate::telemetry::sparing::log_peer_once_a_minute;

/// Where NATS is, and what it is shown.
#[derive(Clone, Default)]
pub struct NatsPlace {
    pub urls: Vec<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub credentials_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    /// Certificate and key.
    pub client_files: Option<(PathBuf, PathBuf)>,
}

pub struct Nats {
    pub place: NatsPlace,
    pub prefix: String,
    pub node_uid: String,
    pub connect_timeout: Duration,
    pub timeout: Duration,
    pub link: Arc<EngineLink>,
    pub inlet: Arc<Inlet>,
    pub standing: Arc<SubscriptionStanding>,
}

/// What a URL says of who this node is, taken out of it: the client library does not look there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatsLogin {
    pub user: Option<String>,
    /// Without a user: a token.
    pub password: Option<String>,
}

impl NatsLogin {
    /// The URL without it. `nats://user:password@host`, `nats://token@host`.
    ///
    /// # Errors
    /// What is wrong with the URL, without its secrets.
    pub fn take_from(text: &str) -> Result<(NatsLogin, String), String> {
        let mut url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
        if !["nats", "tls"].contains(&url.scheme()) {
            return Err("must begin with nats:// or tls://".to_owned());
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("names no host".to_owned());
        }
        let decoded = |text: &str| String::from_utf8(percent(text)).ok().filter(|text| !text.is_empty());
        let (user, password) = (decoded(url.username()), url.password().and_then(decoded));
        let login = match (user, password) {
            (Some(token), None) => NatsLogin { user: None, password: Some(token) },
            (user, password) => NatsLogin { user, password },
        };
        let taken = url.set_username("").and_then(|()| url.set_password(None));
        taken.map_err(|()| "has no place for a user".to_owned())?;
        Ok((login, url.into()))
    }
}

/// Whether a channel's name can stand in a subject.
pub fn is_subject(channel: &str) -> bool {
    channel.split('.').all(|part| !part.is_empty())
        && !channel.contains(|c: char| c.is_whitespace() || c.is_control() || c == '*' || c == '>')
}

impl Nats {
    /// For the life of the process.
    pub async fn run(self) {
        let (mut pause, mut why) = (RECONNECT_MIN, None);
        loop {
            match self.connect().await {
                Ok(client) => {
                    tracing::info!("engine: NATS is there");
                    let lost = self.serve(client).await;
                    tracing::warn!("engine: NATS: {lost}");
                    self.set_away(Stands::Away(lost));
                }
                Err(stands) => {
                    if why.replace(stands.clone()).as_ref() != Some(&stands)
                        && let Stands::Away(why) = &stands
                    {
                        tracing::warn!("engine: {why}");
                    }
                    self.set_away(stands);
                }
            }
            let _ = timeout(pause, self.refuse_all()).await;
            pause = (pause * 2).min(RECONNECT_MAX);
        }
    }

    fn set_away(&self, stands: Stands) {
        self.link.set_up(false);
        self.link.drop_changes();
        self.standing.set(0, stands);
        self.inlet.push(InletEvent::Down(0));
    }

    /// Nobody waits for a server that is away.
    async fn refuse_all(&self) {
        loop {
            let jobs = self.link.take_batch();
            if jobs.is_empty() {
                self.link.job_came.notified().await;
            }
            jobs.into_iter()
                .for_each(|job| self.inlet.push(InletEvent::Finished(job.then, Err(EngineFault::Away))));
        }
    }

    async fn connect(&self) -> Result<Client, Stands> {
        let away = |why: String| Stands::Away(format!("NATS: {why}"));
        let (link, inlet, standing) =
            (Arc::clone(&self.link), Arc::clone(&self.inlet), Arc::clone(&self.standing));
        let mut options = ConnectOptions::new()
            .name("trunkline")
            .connection_timeout(self.connect_timeout)
            .reconnect_delay_callback(|tries| {
                RECONNECT_MIN.mul_f64(2_f64.powi(tries.min(5) as i32)).min(RECONNECT_MAX)
            })
            .event_callback(move |event| {
                match event {
                    // Subscriptions are made again by the library.
                    NatsEvent::Connected => {
                        link.set_up(true);
                        standing.set(0, Stands::Up);
                        inlet.push(InletEvent::Up(0));
                    }
                    NatsEvent::Disconnected | NatsEvent::Closed => {
                        link.set_up(false);
                        standing.set(0, Stands::Away("NATS: the connection is lost".to_owned()));
                        inlet.push(InletEvent::Down(0));
                    }
                    NatsEvent::SlowConsumer(_) => log_peer_once_a_minute(
                        "engine_slow",
                        "this node does not keep up with what NATS sends: some of it is lost",
                        || None,
                    ),
                    other => tracing::debug!("engine: NATS: {other}"),
                }
                async {}
            });
        if let (Some(user), Some(password)) = (&self.place.user, &self.place.password) {
            options = options.user_and_password(user.clone(), password.clone());
        } else if let Some(token) = &self.place.password {
            options = options.token(token.clone());
        }
        if let Some(file) = &self.place.credentials_file {
            let read = options.credentials_file(file).await;
            options = read.map_err(|error| Stands::Refused(format!("{}: {error}", file.display())))?;
        }
        if let Some(file) = &self.place.ca_file {
            options = options.add_root_certificates(file.clone());
        }
        if let Some((cert, key)) = &self.place.client_files {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        match timeout(self.connect_timeout * 2, options.connect(self.place.urls.clone())).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => match error.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                    Err(Stands::Refused(format!("NATS: {error}")))
                }
                _ if is_untrusted(&error) => Err(Stands::Refused(format!("NATS: {error}"))),
                _ => Err(away(error.to_string())),
            },
            Err(_) => Err(away("no connection in time".to_owned())),
        }
    }

    async fn serve(&self, client: Client) -> String {
        for subject in [self.control(), self.node(&self.node_uid)] {
            match client.subscribe(subject).await {
                Ok(subscriber) => drop(self.forward(subscriber, None)),
                Err(error) => return error.to_string(),
            }
        }
        self.link.set_up(true);
        self.standing.set(0, Stands::Up);
        self.inlet.push(InletEvent::Up(0));
        // For ever: the library makes lost connections again.
        tokio::join!(self.run_jobs(&client), self.run_changes(&client)).0
    }

    fn control(&self) -> String {
        format!("{}.control", self.prefix)
    }

    fn node(&self, uid: &str) -> String {
        format!("{}.node.{uid}", self.prefix)
    }

    fn client_subject(&self, channel: &str) -> String {
        format!("{}.client.{channel}", self.prefix)
    }

    async fn run_jobs(&self, client: &Client) -> String {
        loop {
            let jobs = self.link.take_batch();
            if jobs.is_empty() {
                self.link.job_came.notified().await;
                continue;
            }
            let is_up = self.link.is_up();
            let mut written = Vec::with_capacity(jobs.len());
            for EngineJob { what, then } in jobs {
                let done = match self.message(&what) {
                    _ if !is_up => Err(EngineFault::Away),
                    Err(fault) => Err(fault),
                    Ok((subject, message)) => {
                        client.publish(subject, message.into()).await.map_err(|_| EngineFault::Away)
                    }
                };
                written.push((then, done));
            }
            // When the server has read all of it, it has what was published.
            let flushed =
                matches!(timeout(self.timeout, client.flush()).await, Ok(Ok(()))) && self.link.is_up();
            for (then, done) in written {
                let done = done.and(if flushed { Ok(()) } else { Err(EngineFault::Away) });
                let outcome = done.map(|()| Done::Published(Position::UNKNOWN));
                self.inlet.push(InletEvent::Finished(then, outcome));
            }
        }
    }

    /// Subject and message of a task.
    fn message(&self, task: &Task) -> Result<(String, Vec<u8>), EngineFault> {
        let (channel, push) = match task {
            Task::Publish { key: Some(_), .. } => return Err(EngineFault::NotAvailable),
            Task::Publish { channel, publication, .. } => {
                (channel, SharedPush::Publication((**publication).clone()))
            }
            Task::Event { channel, joined: true, info } => (channel, SharedPush::Join((**info).clone())),
            Task::Event { channel, joined: false, info } => (channel, SharedPush::Leave((**info).clone())),
            Task::Say { node, message } => {
                let subject = node.as_ref().map_or_else(|| self.control(), |uid| self.node(uid));
                return Ok((subject, message.clone()));
            }
            _ => return Err(EngineFault::NotAvailable),
        };
        let mut message = Vec::new();
        encode_push(&mut message, channel, &push);
        Ok((self.client_subject(channel), message))
    }

    async fn run_changes(&self, client: &Client) {
        // A task each, which ends with its subscription.
        let mut subscribed: HashMap<ChannelName, JoinHandle<()>> = HashMap::new();
        loop {
            let changes = self.link.take_changes();
            if changes.is_empty() {
                self.link.change_came.notified().await;
                continue;
            }
            let mut numbers = Vec::new();
            for change in changes {
                match change {
                    LinkChange::Subscribe(channel, number) => {
                        numbers.push(number);
                        // Of an earlier connection: the library has made it again.
                        if subscribed.contains_key(&channel) {
                            continue;
                        }
                        match client.subscribe(self.client_subject(&channel)).await {
                            Ok(subscriber) => {
                                let reader = self.forward(subscriber, Some(channel.clone()));
                                subscribed.insert(channel, reader);
                            }
                            Err(error) => tracing::error!("engine: NATS: {channel}: {error}"),
                        }
                    }
                    LinkChange::Unsubscribe(channel) => {
                        if let Some(reader) = subscribed.remove(&channel) {
                            reader.abort();
                        }
                    }
                }
            }
            // While the server is away its word does not come: joins are answered when it is back, or refused.
            while !matches!(timeout(self.timeout, client.flush()).await, Ok(Ok(()))) {
                sleep(RECONNECT_MIN).await;
            }
            self.inlet.push(InletEvent::Subscribed(numbers));
        }
    }

    /// Hands over what a subscription brings; of no channel, what nodes say.
    fn forward(&self, mut subscriber: Subscriber, channel: Option<ChannelName>) -> JoinHandle<()> {
        let inlet = Arc::clone(&self.inlet);
        tokio::spawn(async move {
            while let Some(message) = next(&mut subscriber).await {
                let Some(channel) = &channel else {
                    inlet.push(InletEvent::Message(Incoming::Node(message.payload.to_vec())));
                    continue;
                };
                match read(&message.payload) {
                    Some(read) => {
                        inlet.push(InletEvent::Message(Incoming::Channel(channel.to_string(), read)))
                    }
                    None => log_peer_once_a_minute(
                        "engine_foreign",
                        "a message in NATS is of no known node: it is dropped",
                        || None,
                    ),
                }
            }
        })
    }
}

fn read(payload: &[u8]) -> Option<RedisMessage> {
    let (_, push) = decode_push(payload).ok()??;
    Some(match push {
        SharedPush::Publication(publication) => {
            RedisMessage::Publication(None, SharedPublication { offset: 0, ..publication })
        }
        SharedPush::Join(info) => RedisMessage::Join(info),
        SharedPush::Leave(info) => RedisMessage::Leave(info),
    })
}

async fn next(subscriber: &mut Subscriber) -> Option<async_nats::Message> {
    std::future::poll_fn(|cx| Pin::new(&mut *subscriber).poll_next(cx)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_subjects_are_no_channels() {
        for right in ["a", "chat:room-1", "a.b.c", "ünï"] {
            assert!(is_subject(right), "{right}");
        }
        for wrong in ["", "a b", "a.*", ">", "a..b", ".a", "a.", "a\tb"] {
            assert!(!is_subject(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_url_says_who_this_node_is_and_keeps_it_to_itself() {
        let take = |url: &str| NatsLogin::take_from(url).unwrap();
        let login = |user: Option<&str>, password: Option<&str>| NatsLogin {
            user: user.map(Into::into),
            password: password.map(Into::into),
        };
        assert_eq!(take("nats://a:4222"), (NatsLogin::default(), "nats://a:4222".into()));
        assert_eq!(take("tls://ann:p%40w@a"), (login(Some("ann"), Some("p@w")), "tls://a".into()));
        assert_eq!(take("nats://secret@a:1"), (login(None, Some("secret")), "nats://a:1".into()));
        for (wrong, why) in
            [("http://hunter2@a", "must begin"), ("a:1", "must begin"), ("nats://", "no host")]
        {
            let problem = NatsLogin::take_from(wrong).unwrap_err();
            assert!(problem.contains(why) && !problem.contains("hunter2"), "{wrong}: {problem}");
        }
    }

    #[test]
    fn messages_of_other_nodes_are_read_without_positions() {
        let publication = SharedPublication { offset: 7, ..SharedPublication::default() };
        let mut message = Vec::new();
        encode_push(&mut message, "c", &SharedPush::Publication(publication));
        assert_eq!(read(&message), Some(RedisMessage::Publication(None, SharedPublication::default())));
        assert_eq!((read(b"hello"), read(b"")), (None, None));
    }
}

//! One server: its connections, made again when they are lost, and what passes through them.
//!
//! ```text
//!             connected: link up              lost, silent, or a replica now
//!  connect ─────────────────────▶ serve ──────────────────────────────────────▶ link down ─▶ wait ─▶ connect
//! ```

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use redis::aio::{ConnectionLike as _, MultiplexedConnection, PubSubSink, PubSubStream};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo as _, Msg, Pipeline, RedisConnectionInfo, RedisError, ServerErrorKind,
    TlsCertificates, TlsMode, Value, cmd,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::base::ids::ChannelName;
use crate::engine::inlet::{Incoming, Inlet, InletEvent};
use crate::engine::job::{Done, EngineFault, EngineJob, Task};
use crate::engine::limits::{HEARTBEAT, RECONNECT_MAX, RECONNECT_MIN};
use crate::engine::link::{EngineLink, LinkChange};
use crate::engine::redis::address::{Address, AddressKind};
use crate::engine::redis::command::{RedisTrouble, command, fault_of, outcome};
use crate::engine::redis::layout::{RedisNames, read_message};
use crate::engine::redis::scripts;
use crate::engine::standing::{Stands, SubscriptionStanding, is_untrusted};
use crate::telemetry::sparing::log_peer_once_a_minute;

/// Certificates in PEM, as read from the files of the configuration.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RedisTlsFiles {
    pub ca: Option<Vec<u8>>,
    /// Certificate and key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

pub struct Server {
    pub number: usize,
    pub address: Address,
    pub tls: RedisTlsFiles,
    pub names: RedisNames,
    pub node_uid: String,
    /// For a connection to be made, and for an answer.
    pub connect_timeout: Duration,
    pub timeout: Duration,
    pub link: Arc<EngineLink>,
    pub inlet: Arc<Inlet>,
    pub standing: Arc<SubscriptionStanding>,
}

#[derive(Clone)]
enum RedisCommands {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

struct RedisConnections {
    commands: RedisCommands,
    sink: PubSubSink,
    messages: PubSubStream,
}

/// Tasks that a server has been given: whatever becomes of it, each is answered.
struct UnderWay<'s> {
    jobs: Vec<EngineJob>,
    inlet: &'s Inlet,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.jobs
            .drain(..)
            .for_each(|job| self.inlet.push(InletEvent::Finished(job.then, Err(EngineFault::Away))));
    }
}

impl UnderWay<'_> {
    fn finish(&self, job: EngineJob, outcome: Result<Done, EngineFault>) {
        self.inlet.push(InletEvent::Finished(job.then, outcome));
    }
}

impl Server {
    /// For the life of the process.
    pub async fn run(self) {
        let (mut pause, mut last) = (RECONNECT_MIN, None);
        loop {
            let stands = match self.connect().await {
                Ok(connections) => {
                    pause = RECONNECT_MIN;
                    self.link.set_up(true);
                    self.standing.set(self.number, Stands::Up);
                    self.inlet.push(InletEvent::Up(self.number));
                    tracing::info!("engine: {} is there", self.address);
                    let why = self.serve(connections).await;
                    self.link.set_up(false);
                    tracing::warn!("engine: {} is away: {why}", self.address);
                    Stands::Away(format!("{}: {why}", self.address))
                }
                Err(error) => {
                    let why = format!("{}: {error}", self.address);
                    if last.replace(why.clone()).as_ref() != Some(&why) {
                        tracing::warn!("engine: {why}");
                    }
                    match is_refusal(&error) || is_untrusted(&error) {
                        true => Stands::Refused(why),
                        false => Stands::Away(why),
                    }
                }
            };
            self.standing.set(self.number, stands);
            self.link.drop_changes();
            self.refuse_waiting();
            self.inlet.push(InletEvent::Down(self.number));
            // Nodes that lost it together do not come back together.
            let until = pause.mul_f64(0.5 + fastrand::f64());
            let _ = timeout(until, async {
                loop {
                    self.link.job_came.notified().await;
                    self.refuse_waiting();
                }
            })
            .await;
            pause = (pause * 2).min(RECONNECT_MAX);
        }
    }

    fn refuse_waiting(&self) {
        loop {
            let jobs = self.link.take_batch();
            if jobs.is_empty() {
                return;
            }
            drop(UnderWay { jobs, inlet: &self.inlet });
        }
    }

    // --- connecting

    async fn connect(&self) -> Result<RedisConnections, RedisError> {
        let patience = self.connect_timeout * 2;
        match timeout(patience, self.try_connect()).await {
            Ok(connected) => connected,
            Err(_) => Err((ErrorKind::Io, "no connection in time").into()),
        }
    }

    async fn try_connect(&self) -> Result<RedisConnections, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.timeout));
        let (commands, client) = match &self.address.kind {
            AddressKind::Cluster => {
                let infos: Vec<_> = (0..self.address.nodes.len()).map(|at| self.info(at)).collect();
                let mut builder = ClusterClientBuilder::new(infos)
                    .connection_timeout(self.connect_timeout)
                    .response_timeout(self.timeout);
                if self.address.tls {
                    builder = builder.tls(TlsMode::Secure).certs(self.certificates());
                }
                let commands = RedisCommands::Cluster(builder.build()?.get_async_connection().await?);
                // Any node of a cluster hears what is published at another one.
                (commands, None)
            }
            AddressKind::Single => {
                let client = self.client(0)?;
                let commands = client.get_multiplexed_async_connection_with_config(&config).await?;
                (RedisCommands::One(commands), Some(client))
            }
            AddressKind::Sentinel { master, user, password } => {
                let client = self.master(master, user.as_deref(), password.as_deref()).await?;
                let commands = client.get_multiplexed_async_connection_with_config(&config).await?;
                (RedisCommands::One(commands), Some(client))
            }
        };
        let pubsub = match client {
            Some(client) => client.get_async_pubsub().await?,
            None => self.pubsub_of_cluster().await?,
        };
        let (mut sink, messages) = pubsub.split();
        sink.subscribe(&[self.names.control(), self.names.node(&self.node_uid)]).await?;
        let mut connections = RedisConnections { commands, sink, messages };
        self.check_role(&mut connections.commands).await?;
        Ok(connections)
    }

    fn addr(&self, at: usize) -> ConnectionAddr {
        let (host, port) = self.address.nodes[at].clone();
        match self.address.tls {
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(host, port),
        }
    }

    fn settings(&self) -> RedisConnectionInfo {
        let mut settings = RedisConnectionInfo::default().set_db(self.address.db);
        if let Some(user) = &self.address.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.address.password {
            settings = settings.set_password(password);
        }
        settings
    }

    fn info(&self, at: usize) -> ConnectionInfo {
        let info = self.addr(at).into_connection_info().expect("an address is always one");
        info.set_redis_settings(self.settings())
    }

    fn certificates(&self) -> TlsCertificates {
        let client = self.tls.client.clone();
        TlsCertificates {
            client_tls: client.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key }),
            root_cert: self.tls.ca.clone(),
        }
    }

    fn client(&self, at: usize) -> Result<Client, RedisError> {
        match self.address.tls {
            true => Client::build_with_tls(self.info(at), self.certificates()),
            false => Client::open(self.info(at)),
        }
    }

    async fn master(
        &self,
        name: &str,
        user: Option<&str>,
        password: Option<&str>,
    ) -> Result<Client, RedisError> {
        let sentinels: Vec<_> = (0..self.address.nodes.len()).map(|at| self.addr(at)).collect();
        let mut builder = SentinelClientBuilder::new(sentinels, name, SentinelServerType::Master)?
            .set_client_to_redis_db(self.address.db);
        if self.address.tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(self.certificates())
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_certificates(self.certificates());
        }
        if let Some(user) = &self.address.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &self.address.password {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(user) = user {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        builder.build()?.async_get_client().await
    }

    async fn pubsub_of_cluster(&self) -> Result<redis::aio::PubSub, RedisError> {
        let first = fastrand::usize(..self.address.nodes.len());
        let mut failed = None;
        for at in 0..self.address.nodes.len() {
            let client = self.client((first + at) % self.address.nodes.len())?;
            match timeout(self.connect_timeout, client.get_async_pubsub()).await {
                Ok(Ok(pubsub)) => return Ok(pubsub),
                Ok(Err(error)) => failed = Some(error),
                Err(_) => failed = Some((ErrorKind::Io, "a node of the cluster does not answer").into()),
            }
        }
        Err(failed.unwrap_or_else(|| (ErrorKind::Io, "the cluster has no node").into()))
    }

    /// A replica takes no publication: its master is elsewhere.
    async fn check_role(&self, commands: &mut RedisCommands) -> Result<(), RedisError> {
        let RedisCommands::One(connection) = commands else { return Ok(()) };
        match cmd("ROLE").query_async::<Value>(connection).await {
            Ok(Value::Array(parts)) => match parts.first() {
                Some(Value::BulkString(role)) if role == b"slave" => {
                    Err((ErrorKind::Io, "the server is a replica").into())
                }
                _ => Ok(()),
            },
            // A user that may not ask finds out by the first publication.
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => Ok(()),
            Err(error) => Err(error),
        }
    }

    // --- serving

    /// Until something is wrong. Says what.
    async fn serve(&self, connections: RedisConnections) -> String {
        let RedisConnections { commands, sink, messages } = connections;
        tokio::select! {
            why = self.run_jobs(commands) => why,
            why = self.run_changes(sink) => why,
            why = self.run_messages(messages) => why,
        }
    }

    async fn run_jobs(&self, mut commands: RedisCommands) -> String {
        loop {
            let jobs = self.link.take_batch();
            if jobs.is_empty() {
                if timeout(HEARTBEAT, self.link.job_came.notified()).await.is_err()
                    && let Err(error) = self.check_role(&mut commands).await
                {
                    return error.to_string();
                }
                continue;
            }
            let done = match &mut commands {
                RedisCommands::One(connection) => self.run_batch(connection, jobs).await,
                RedisCommands::Cluster(connection) => self.run_in_cluster(connection, jobs).await,
            };
            if let Err(why) = done {
                return why;
            }
        }
    }

    /// One write, and the answers in their order.
    async fn run_batch(
        &self,
        connection: &mut MultiplexedConnection,
        jobs: Vec<EngineJob>,
    ) -> Result<(), String> {
        let mut under_way = UnderWay { jobs, inlet: &self.inlet };
        let pipeline = self.pipeline(&under_way.jobs, true);
        let answers = send(connection, &pipeline).await?;
        let (mut unknown, mut read_only) = (Vec::new(), false);
        for (job, answer) in std::mem::take(&mut under_way.jobs).into_iter().zip(answers) {
            match outcome(&job.what, answer) {
                Ok(outcome) => under_way.finish(job, outcome),
                Err(RedisTrouble::UnknownScript) => unknown.push(job),
                Err(RedisTrouble::ReadOnly) => {
                    read_only = true;
                    under_way.finish(job, Err(EngineFault::Away));
                }
            }
        }
        under_way.jobs = unknown;
        if !under_way.jobs.is_empty() {
            // Nothing was done of these, nor of what came behind them for the same channel by a script.
            let pipeline = self.pipeline(&under_way.jobs, false);
            let answers = send(connection, &pipeline).await?;
            for (job, answer) in std::mem::take(&mut under_way.jobs).into_iter().zip(answers) {
                let outcome = outcome(&job.what, answer).unwrap_or(Err(EngineFault::Away));
                under_way.finish(job, outcome);
            }
            self.load_scripts(connection).await;
        }
        if read_only { Err("the server is a replica".to_owned()) } else { Ok(()) }
    }

    fn pipeline(&self, jobs: &[EngineJob], by_hash: bool) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(jobs.len());
        jobs.iter().for_each(|job| _ = pipeline.add_command(command(&job.what, &self.names, by_hash)));
        pipeline
    }

    async fn load_scripts(&self, connection: &mut MultiplexedConnection) {
        for script in scripts::all() {
            let _ = cmd("SCRIPT").arg("LOAD").arg(script.source).query_async::<Value>(connection).await;
        }
    }

    /// A cluster's nodes are asked at the same time, what is about one channel one after the other.
    async fn run_in_cluster(
        &self,
        connection: &ClusterConnection,
        jobs: Vec<EngineJob>,
    ) -> Result<(), String> {
        let mut by_channel: HashMap<Option<ChannelName>, Vec<EngineJob>> = HashMap::new();
        for job in jobs {
            by_channel.entry(channel_of(&job.what).cloned()).or_default().push(job);
        }
        let mut running = JoinSet::new();
        for jobs in by_channel.into_values() {
            let (mut connection, names, inlet) =
                (connection.clone(), self.names.clone(), Arc::clone(&self.inlet));
            running.spawn(async move {
                let mut lost = None;
                let mut under_way = UnderWay { jobs, inlet: &inlet };
                under_way.jobs.reverse();
                while let Some(job) = under_way.jobs.pop() {
                    let mut answer = connection.req_packed_command(&command(&job.what, &names, true)).await;
                    if is_unknown_script(&answer) {
                        answer = connection.req_packed_command(&command(&job.what, &names, false)).await;
                    }
                    let done = match answer {
                        Ok(answer) => outcome(&job.what, answer).unwrap_or(Err(EngineFault::Away)),
                        Err(error) => {
                            if error.is_unrecoverable_error() || error.is_timeout() {
                                lost = Some(error.to_string());
                            }
                            Err(fault(&error))
                        }
                    };
                    under_way.finish(job, done);
                }
                lost
            });
        }
        let mut lost = None;
        while let Some(ended) = running.join_next().await {
            lost = ended.ok().flatten().or(lost);
        }
        // The client of a cluster finds its nodes again by itself: what it lost was one of them.
        if let Some(why) = lost {
            tracing::debug!("engine: {}: {why}", self.address);
        }
        Ok(())
    }

    async fn run_changes(&self, mut sink: PubSubSink) -> String {
        loop {
            let changes = self.link.take_changes();
            if changes.is_empty() {
                if timeout(HEARTBEAT, self.link.change_came.notified()).await.is_err() {
                    match timeout(self.timeout, sink.ping::<Value>()).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(error)) => return format!("Pub/Sub: {error}"),
                        Err(_) => return "Pub/Sub: no answer in time".to_owned(),
                    }
                }
                continue;
            }
            let mut changes = changes.into_iter().peekable();
            while let Some(change) = changes.next() {
                // Neighbours of one kind leave in one command, in their order.
                let subscribes = matches!(change, LinkChange::Subscribe(..));
                let (mut names, mut numbers) = (Vec::new(), Vec::new());
                let mut take = |change| match change {
                    LinkChange::Subscribe(channel, number) => {
                        names.push(self.names.client(&channel));
                        numbers.push(number);
                    }
                    LinkChange::Unsubscribe(channel) => names.push(self.names.client(&channel)),
                };
                take(change);
                while let Some(next) =
                    changes.next_if(|next| matches!(next, LinkChange::Subscribe(..)) == subscribes)
                {
                    take(next);
                }
                let done = match subscribes {
                    true => timeout(self.timeout, sink.subscribe(&names)).await,
                    false => timeout(self.timeout, sink.unsubscribe(&names)).await,
                };
                match done {
                    Ok(Ok(())) => self.inlet.push(InletEvent::Subscribed(numbers)),
                    Ok(Err(error)) => return format!("Pub/Sub: {error}"),
                    Err(_) => return "Pub/Sub: no answer in time".to_owned(),
                }
            }
        }
    }

    async fn run_messages(&self, mut messages: PubSubStream) -> String {
        while let Some(message) = next(&mut messages).await {
            let name = message.get_channel_name();
            let incoming = match self.names.channel_of(name) {
                None => Incoming::Node(message.get_payload_bytes().to_vec()),
                Some(channel) => match read_message(message.get_payload_bytes()) {
                    Ok(read) => Incoming::Channel(channel.to_owned(), read),
                    Err(problem) => {
                        tracing::debug!("engine: a message of {name}: {problem}");
                        log_peer_once_a_minute(
                            "engine_foreign",
                            "a message in the engine is of no known node: it is dropped",
                            || None,
                        );
                        continue;
                    }
                },
            };
            self.inlet.push(InletEvent::Message(incoming));
        }
        "Pub/Sub: the connection has ended".to_owned()
    }
}

/// The answers of a pipeline, errors of commands among them.
async fn send(connection: &mut MultiplexedConnection, pipeline: &Pipeline) -> Result<Vec<Value>, String> {
    let answers = connection.req_packed_commands(pipeline, 0, pipeline.len()).await;
    answers.map_err(|error| error.to_string())
}

async fn next(messages: &mut PubSubStream) -> Option<Msg> {
    std::future::poll_fn(|cx| Pin::new(&mut *messages).poll_next(cx)).await
}

fn channel_of(task: &Task) -> Option<&ChannelName> {
    match task {
        Task::Publish { channel, .. }
        | Task::Event { channel, .. }
        | Task::HistoryRemove(channel)
        | Task::PresenceAdd { channel, .. }
        | Task::PresenceRemove { channel, .. }
        | Task::Presence(channel) => Some(channel),
        Task::History(read) => Some(&read.channel),
        Task::Say { .. } => None,
    }
}

fn is_unknown_script(answer: &Result<Value, RedisError>) -> bool {
    match answer {
        Ok(Value::ServerError(error)) => error.kind() == Some(ServerErrorKind::NoScript),
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::Server(ServerErrorKind::NoScript),
    }
}

fn fault(error: &RedisError) -> EngineFault {
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => {
            fault_of(error.code().unwrap_or_default(), error.detail().unwrap_or_default())
        }
        _ => EngineFault::Away,
    }
}

/// The server knows this node's user or password not: to try again is no use.
fn is_refusal(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "NOPERM"))
        || error
            .detail()
            .is_some_and(|detail| detail.contains("WRONGPASS") || detail.contains("invalid password"))
}

//! What stands between the sockets of a node's listeners and HTTP. Here is said which layers there are; what they do is said in
//! [`crate::layer`], and what they are made with in a file of each.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;

use crate::config::Config;
use crate::config::places::Listener;
use crate::config::tls::TlsFiles;
use crate::layer::LayerMaker;
use crate::node::tls::Certificates;

/// By default none.
#[derive(Clone, Debug, Default)]
pub struct NodeLayers {
    /// `None`: no listener speaks TLS.
    certificates: Option<Certificates>,
}

/// What has been read for new connections, and is not in place.
pub struct PreparedLayers(Option<TlsFiles>);

impl NodeLayers {
    /// # Errors
    /// When a file that was good a moment ago is not any more.
    pub fn new(config: &Config) -> io::Result<NodeLayers> {
        Ok(NodeLayers { certificates: Certificates::new(config)? })
    }

    /// What makes the layer of each connection of the listener.
    pub fn maker(&self, listener: &Listener) -> Option<Arc<dyn LayerMaker>> {
        self.certificates.as_ref().filter(|_| listener.tls).map(Certificates::maker)
    }

    /// How long a layer may take until it is ready.
    pub fn handshake_timeout(config: &Config) -> Duration {
        config.tls.handshake_timeout
    }

    /// Reads what new connections are to get.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn prepare(&self, config: &Config) -> Result<PreparedLayers, String> {
        let files = self.certificates.as_ref().map(|certificates| certificates.prepare(&config.tls));
        files.transpose().map(PreparedLayers)
    }

    /// New connections get this. Says what.
    ///
    /// # Errors
    /// What is wrong with it: the old goes on.
    pub fn exchange(&self, prepared: PreparedLayers) -> Result<Vec<String>, String> {
        match (&self.certificates, prepared.0) {
            (Some(certificates), Some(files)) => certificates.exchange(files),
            _ => Ok(Vec::new()),
        }
    }

    /// Warns of what ends by itself.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn watch(&self) -> io::Result<()> {
        self.certificates.as_ref().map_or(Ok(()), Certificates::watch)
    }

    pub fn collector(&self) -> Option<Arc<dyn Collector>> {
        self.certificates.as_ref().map(|certificates| Arc::new(certificates.clone()) as _)
    }
}

//! Compression of answers that are too long for a shard: one thread, so that it never takes more than one cpu from the
//! shards, and a short line before it.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use ::http::{HeaderValue, Response, header};
use tokio::runtime::Handle;

use crate::base::bytes::Bytes;
use crate::control::deliver::deliver;
use crate::proto::http1::gzip;
use crate::shard::control_request::{Busy, HttpReply};

/// Above that of all others: on a busy machine, what needs no compression goes first.
const NICENESS: i32 = 10;

/// Answers that may wait. Each is about `client.outbox_bytes_max` long at most and takes some milliseconds: one more is
/// there sooner without compression.
const WAITING_MAX: usize = 16;

type CompressJob = (Response<Bytes>, HttpReply);

pub struct Compressor(SyncSender<CompressJob>);

impl Compressor {
    /// Starts the thread, which ends when this is dropped. `handle` brings the answers back.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(handle: Handle) -> io::Result<Compressor> {
        let (sender, jobs) = sync_channel(WAITING_MAX);
        thread::Builder::new().name("compress".to_string()).spawn(move || work(&jobs, &handle))?;
        Ok(Compressor(sender))
    }

    /// Takes a response to compress.
    ///
    /// # Errors
    /// [`Busy`] when enough are waiting: the response is left where it was.
    pub fn take(&self, response: &mut Option<Response<Bytes>>, reply: HttpReply) -> Result<(), Busy> {
        let Some(job) = response.take() else { return Ok(()) };
        match self.0.try_send((job, reply)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full((job, reply)) | TrySendError::Disconnected((job, reply))) => {
                *response = Some(job);
                reply.forget();
                Err(Busy)
            }
        }
    }
}

fn work(jobs: &Receiver<CompressJob>, handle: &Handle) {
    // Of this thread alone, on Linux. Without it compression works as well.
    rustix::process::setpriority_process(None, NICENESS).ok();
    for (response, mut reply) in jobs {
        let mut response = response.map(|body| Bytes::from(gzip(&body)));
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let mut response = Some(response);
        handle.spawn(deliver(move || {
            reply.send(&mut response);
            response.is_none()
        }));
    }
}

//! Answers of lines that go on, until their reader leaves or the node stops. Listeners of the API alone stream them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::response::Response;
use parking_lot::Mutex;

/// Dropped when nobody reads them any more.
pub trait StreamedLines: Send {
    /// The next lines; waits for one. May be dropped while it waits: nothing is lost by that.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send + '_>>;
}

/// Lines on their way to the connection that writes them, in the extensions of a response. A port that does not stream gives
/// the response itself.
#[derive(Clone)]
struct LinesSlot(Arc<Mutex<Option<Box<dyn StreamedLines>>>>);

/// Puts the lines in place of the response, on ports that stream.
pub fn put(response: &mut Response, lines: impl StreamedLines + 'static) {
    response.extensions_mut().insert(LinesSlot(Arc::new(Mutex::new(Some(Box::new(lines))))));
}

pub fn are_in<B>(response: &::http::Response<B>) -> bool {
    response.extensions().get::<LinesSlot>().is_some()
}

pub fn take<B>(response: &::http::Response<B>) -> Option<Box<dyn StreamedLines>> {
    response.extensions().get::<LinesSlot>()?.0.lock().take()
}

//! Methods of `rpc` that are answered here: those whose names begin with [`PREFIX`]. No hook is called for them, whatever the
//! configuration says.

use crate::base::fault::ErrorCode;
use crate::proto::centrifuge::command::Data;
use crate::session::context::{Context, Failure};
use crate::session::state::Session;

/// Begins the names of these methods.
pub const PREFIX: &str = "trunkline.";

/// Takes the id of the command and its data.
type Handler = fn(&mut Session, u32, Option<Data<'_>>, &mut Context<'_>) -> Result<(), Failure>;

/// What stands behind [`PREFIX`], and what answers it.
const METHODS: &[(&str, Handler)] = &[("ack", Session::handle_ack), ("send", Session::handle_send)];

impl Session {
    /// Answers the method whose name is [`PREFIX`] and `name`.
    pub(super) fn handle_builtin(
        &mut self,
        id: u32,
        name: &str,
        data: Option<Data<'_>>,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let known = METHODS.iter().find(|(known, _)| *known == name);
        let (_, handler) = known.ok_or(ErrorCode::MethodNotFound)?;
        handler(self, id, data, cx)
    }
}

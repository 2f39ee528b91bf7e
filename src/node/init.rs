//! `trunkline init`: writes a configuration with secrets that nobody has had before.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::base::secret;
use crate::config::kit::{InitTask, configuration};

/// Exit code 1: the file is there already, or cannot be written.
pub fn run(task: &InitTask) -> ExitCode {
    match write(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(io::stderr().lock(), "error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn write(task: &InitTask) -> Result<(), String> {
    let secret = || secret::bytes::<32>().map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
    let (api_key, token_secret) = (secret(), secret());
    let (api_key, token_secret) = match (api_key, token_secret) {
        (Ok(api_key), Ok(token_secret)) => (api_key, token_secret),
        (Err(error), _) | (_, Err(error)) => return Err(error.to_string()),
    };
    let text = configuration(&task.listen, &api_key, &token_secret);
    let Some(path) = &task.output else {
        // A reader that has gone wants nothing.
        let _ = io::stdout().lock().write_all(text.as_bytes());
        return Ok(());
    };
    let fault = |error: io::Error| format!("{}: {error}", path.display());
    // Never in the place of another: that one's secrets are in use.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fault)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fault)
}

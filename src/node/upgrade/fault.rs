//! Places in an upgrade where a test can make a process die, stop or fail.
//!
//! `TRUNKLINE_FAULT=old.parcels=kill` in the environment of a debug build; a release build has none of it.

/// What happens here, when the environment names this place.
pub fn point(place: &str) {
    if cfg!(debug_assertions)
        && let Ok(wanted) = std::env::var("TRUNKLINE_FAULT")
        && let Some((at, how)) = wanted.split_once('=')
        && at == place
    {
        match how {
            "kill" => {
                let _ =
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            }
            "hang" => std::thread::sleep(std::time::Duration::from_secs(3600)),
            _ => std::process::exit(3),
        }
    }
}

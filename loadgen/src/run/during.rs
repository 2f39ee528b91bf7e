//! A command in the middle of a run, and what clients saw of it.

use std::io;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use trunkline::base::time::Time;

/// The command while it runs, and what is measured from its begin on.
#[derive(Debug)]
pub(super) struct During {
    command: String,
    child: Child,
    begin: Time,
    begin_in_run: Duration,
    failed_before: u64,
    /// Once it has ended.
    ended: Option<(ExitStatus, Duration)>,
    silence: Duration,
}

/// What clients saw from the command's begin to the end of its phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuringResult {
    pub command: String,
    /// Since the run began.
    pub at: Duration,
    /// `None`: it had not ended with the phase, and was killed.
    pub took: Option<Duration>,
    /// Of its shell; `None` after a signal too.
    pub exit_code: Option<i32>,
    /// Connections that were lost.
    pub closes: u64,
    /// The longest that a subscriber waited for something that was published.
    pub silence: Duration,
    pub lost: u64,
    pub repeated: u64,
}

impl During {
    /// Its output goes to stderr: stdout may be for the results.
    pub fn start(command: &str, now: Time, begin_in_run: Duration, failed: u64) -> io::Result<During> {
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        let child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::from(stderr))
            .spawn()?;
        let command = command.to_owned();
        let (ended, silence) = (None, Duration::ZERO);
        Ok(During { command, child, begin: now, begin_in_run, failed_before: failed, ended, silence })
    }

    pub fn has_ended(&mut self, now: Time) -> bool {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.ended = Some((status, now.since(self.begin)));
        }
        self.ended.is_some()
    }

    /// The longest delivery of those that came in just now.
    pub fn heard(&mut self, longest: Duration) {
        self.silence = self.silence.max(longest);
    }

    /// With what the phase came to: nothing of it was lost or repeated before the command without being the server's fault too.
    pub fn finish(mut self, now: Time, failed: u64, lost: u64, repeated: u64) -> DuringResult {
        if !self.has_ended(now) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        DuringResult {
            command: self.command,
            at: self.begin_in_run,
            took: self.ended.map(|(_, took)| took),
            exit_code: self.ended.and_then(|(status, _)| status.code()),
            closes: failed.saturating_sub(self.failed_before),
            silence: self.silence,
            lost,
            repeated,
        }
    }
}

impl DuringResult {
    /// Why it was not what was asked for.
    pub fn fault(&self) -> Option<String> {
        match (self.took, self.exit_code) {
            (None, _) => Some("the command had not ended with its phase, and was killed".into()),
            (Some(_), Some(0)) => None,
            (Some(_), Some(code)) => Some(format!("the command ended with {code}")),
            (Some(_), None) => Some("the command was ended by a signal".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: &str) -> DuringResult {
        let mut during = During::start(command, Time(0), Duration::from_secs(3), 5).unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while !during.has_ended(Time(7)) && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        during.heard(Duration::from_millis(20));
        during.heard(Duration::from_millis(9));
        during.finish(Time(9), 8, 1, 2)
    }

    #[test]
    fn what_was_seen_is_told_with_how_the_command_ended() {
        let good = run("exit 0");
        assert_eq!((good.fault(), good.took), (None, Some(Duration::from_nanos(7))));
        assert_eq!((good.closes, good.lost, good.repeated), (3, 1, 2));
        assert_eq!(good.silence, Duration::from_millis(20));
        assert_eq!(run("exit 3").fault().unwrap(), "the command ended with 3");
        assert_eq!(run("kill -9 $$").fault().unwrap(), "the command was ended by a signal");
        let endless = During::start("sleep 600", Time(0), Duration::ZERO, 0).unwrap();
        assert!(endless.finish(Time(1), 0, 0, 0).fault().unwrap().contains("was killed"));
    }
}

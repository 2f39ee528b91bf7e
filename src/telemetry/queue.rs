//! Lines on their way to stderr: a caller that logs never waits for the reader of the log.
//!
//! A thread writes them. When stderr does not take them (a pipe that nobody reads), what is beyond the bounds is dropped
//! and counted; once lines flow again, the log says how many are missing.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait at most: some seconds of the busiest log.
const LINES_MAX: usize = 4096;
/// What they weigh at most, in bytes.
const BYTES_MAX: usize = 4 << 20;
/// How soon a stderr that takes nothing and does not wait is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// Clones are handles of the same queue.
#[derive(Clone)]
pub struct Lines(Arc<SharedQueue>);

struct SharedQueue {
    state: Mutex<QueueState>,
    /// A line came.
    came: Condvar,
    /// Nothing waits and nothing is being written.
    empty: Condvar,
}

#[derive(Default)]
struct QueueState {
    /// Bound: [`LINES_MAX`] and [`BYTES_MAX`]; what does not fit is dropped and counted.
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    writing: bool,
    /// Since the last line that said so.
    dropped: u64,
    dropped_total: u64,
}

impl Lines {
    /// Starts the thread that writes to `out`. `missing` is the line that says how many were dropped.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(mut out: impl Write + Send + 'static, missing: fn(u64) -> String) -> io::Result<Lines> {
        let lines = Lines(Arc::new(SharedQueue {
            state: Mutex::default(),
            came: Condvar::new(),
            empty: Condvar::new(),
        }));
        let shared = Arc::clone(&lines.0);
        std::thread::Builder::new().name("log".into()).spawn(move || {
            loop {
                let (line, dropped) = shared.next();
                write_whole(&mut out, &line);
                if dropped > 0 {
                    write_whole(&mut out, missing(dropped).as_bytes());
                }
                shared.written();
            }
        })?;
        Ok(lines)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.0.state.lock();
        if state.lines.len() >= LINES_MAX || state.bytes + line.len() > BYTES_MAX {
            state.dropped += 1;
            state.dropped_total += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        drop(state);
        self.0.came.notify_one();
    }

    pub fn dropped_total(&self) -> u64 {
        self.0.state.lock().dropped_total
    }

    /// Waits until everything is written, at most for `patience`.
    pub fn flush(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut state = self.0.state.lock();
        while state.writing || !state.lines.is_empty() {
            if self.0.empty.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }
}

/// Waits also where stderr does not: another process may have made the file that they share non-blocking. A broken stderr
/// leaves nobody to tell.
fn write_whole(out: &mut impl Write, mut line: &[u8]) {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return,
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

impl SharedQueue {
    /// The next line, and how many after it are missing, if it is the last before a gap.
    fn next(&self) -> (Vec<u8>, u64) {
        let mut state = self.state.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.writing = true;
                // What was dropped came after all that waits.
                let dropped = if state.lines.is_empty() { std::mem::take(&mut state.dropped) } else { 0 };
                return (line, dropped);
            }
            self.came.wait(&mut state);
        }
    }

    fn written(&self) {
        let mut state = self.state.lock();
        state.writing = false;
        if state.lines.is_empty() {
            self.empty.notify_all();
        }
    }
}

/// One event of the log, written as a whole.
pub struct Line<'q>(&'q Lines);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'q> MakeWriter<'q> for Lines {
    type Writer = Line<'q>;

    fn make_writer(&'q self) -> Line<'q> {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn missing(dropped: u64) -> String {
        format!("{dropped} missing\n")
    }

    #[test]
    fn a_reader_that_stands_still_holds_nobody_up_and_learns_what_it_missed() {
        let (mut reader, writer) = io::pipe().unwrap();
        let lines = Lines::start(writer, missing).unwrap();
        let sent = LINES_MAX as u64 * 3;
        for number in 0..sent {
            lines.make_writer().write_all(format!("line {number:0>60}\n").as_bytes()).unwrap();
        }
        let dropped = lines.dropped_total();
        assert!(dropped > 0 && dropped < sent, "{dropped} of {sent}");
        let before = Instant::now();
        lines.flush(Duration::from_millis(50));
        assert!(before.elapsed() < Duration::from_secs(20), "an end that waits for the reader");
        // It reads again: what waited, and how much did not.
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            let mut part = [0; 4096];
            while !text.contains("last") {
                let read = reader.read(&mut part).unwrap();
                text.push_str(std::str::from_utf8(&part[..read]).unwrap());
            }
            text
        });
        lines.flush(Duration::from_secs(60));
        lines.make_writer().write_all(b"last\n").unwrap();
        let text = reading.join().unwrap();
        assert!(text.contains(&format!("\n{dropped} missing\n")), "{dropped}: {}", text.len());
        assert_eq!(text.lines().filter(|line| line.starts_with("line")).count() as u64, sent - dropped);
    }

    /// Takes three bytes, then nothing for once.
    struct Grudging(io::PipeWriter, bool);

    impl Write for Grudging {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                Err(io::ErrorKind::WouldBlock.into())
            } else {
                self.0.write(&bytes[..bytes.len().min(3)])
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stderr_that_does_not_wait_gets_whole_lines() {
        let (mut reader, writer) = io::pipe().unwrap();
        let lines = Lines::start(Grudging(writer, false), missing).unwrap();
        lines.make_writer().write_all(b"one line\n").unwrap();
        lines.make_writer().write_all(b"another\n").unwrap();
        let mut text = [0; 17];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"one line\nanother\n");
    }

    #[test]
    fn few_lines_of_great_weight_are_bounded_as_well() {
        let (reader, writer) = io::pipe().unwrap();
        let lines = Lines::start(writer, missing).unwrap();
        for _ in 0..32 {
            lines.make_writer().write_all(&vec![b'x'; 1 << 20]).unwrap();
        }
        assert!(lines.dropped_total() >= 27, "{}", lines.dropped_total());
        drop(reader);
    }
}

//! HdrHistogram interval logs: a line a second, for the tools that read them (HistogramLogProcessor, hdr-plot).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError, Tag};

use crate::measure::Latencies;
use crate::run::Second;

/// One log file. Values are nanoseconds; the maximum beside each line is in milliseconds.
pub struct HdrLog {
    file: BufWriter<File>,
    builder: IntervalLogWriterBuilder,
    /// Bytes of the head, which the builder writes again before each line.
    head_len: usize,
    tag: String,
}

impl HdrLog {
    /// # Errors
    /// When the file cannot be written.
    pub fn create(path: &Path, tag: &str) -> io::Result<HdrLog> {
        let mut builder = IntervalLogWriterBuilder::new();
        builder
            .add_comment("trunkline-loadgen: deliveries, or replies where nothing is published; nanoseconds");
        builder.with_base_time(SystemTime::now()).with_max_value_divisor(1e6);
        let mut head = Vec::new();
        builder.begin_log_with(&mut head, &mut V2DeflateSerializer::new())?;
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&head)?;
        file.flush()?;
        let tag = tag.replace([',', '\r', '\n', ' '], "_");
        Ok(HdrLog { file, builder, head_len: head.len(), tag })
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn second(&mut self, second: &Second, latencies: &Latencies) -> io::Result<()> {
        const SECOND: Duration = Duration::from_secs(1);
        let mut bytes = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let mut writer = self.builder.begin_log_with(&mut bytes, &mut serializer)?;
        let start = second.at.saturating_sub(SECOND);
        writer.write_histogram(&latencies.0, start, SECOND, Tag::new(&self.tag)).map_err(
            |error| match error {
                IntervalLogWriterError::SerializeError(error) => io::Error::other(format!("{error:?}")),
                IntervalLogWriterError::IoError(error) => error,
            },
        )?;
        self.file.write_all(&bytes[self.head_len..])?;
        // A run may be cut off: what was measured until then is in the file.
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    #[test]
    fn a_log_is_read_back_by_its_library() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.hdr");
        let mut log = HdrLog::create(&path, "my run").unwrap();
        let mut latencies = Latencies::default();
        latencies.record(Duration::from_millis(5));
        for at in [1, 2] {
            let second = Second { at: Duration::from_secs(at), ..Second::default() };
            log.second(&second, &latencies).unwrap();
        }
        let text = std::fs::read(&path).unwrap();
        let intervals: Vec<_> = IntervalLogIterator::new(&text)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some(interval),
                _ => None,
            })
            .collect();
        assert_eq!(intervals.len(), 2);
        assert_eq!(intervals[1].start_timestamp(), Duration::from_secs(1));
        assert_eq!(intervals[0].tag().unwrap().as_str(), "my_run");
        let encoded = intervals[0].encoded_histogram();
        use std::io::Cursor;
        let bytes = base64_decode(encoded);
        let back: hdrhistogram::Histogram<u64> =
            Deserializer::new().deserialize(&mut Cursor::new(bytes)).unwrap();
        assert_eq!(back.len(), 1);
    }

    fn base64_decode(text: &str) -> Vec<u8> {
        let digit = |byte: u8| match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let digits: Vec<u8> = text.bytes().filter(|&byte| byte != b'=').map(digit).collect();
        let mut out = Vec::new();
        for group in digits.chunks(4) {
            let word =
                group.iter().enumerate().fold(0u32, |word, (at, &d)| word | u32::from(d) << (18 - 6 * at));
            out.extend_from_slice(&word.to_be_bytes()[1..][..group.len() * 6 / 8]);
        }
        out
    }
}

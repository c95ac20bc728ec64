//! TensorBoard event files: records of protocol buffers, written without TensorFlow.
//!
//! A file is a sequence of TFRecords, each an `Event`. Files are read in the order of their names, so a continued run
//! writes another file, later in that order, which begins with `SessionLog.START` and the step to come: TensorBoard then
//! drops what earlier files say of that step and later ones, and a curve does not double.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prost::Message as _;

use super::metrics::{EvalMetrics, TrainMetrics};
use crate::error::{Error, Result};

/// An event file that is open for appending.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
    /// Records not written yet.
    buffer: Vec<u8>,
    flushed: Instant,
}

/// As often as TensorBoard looks for news, roughly.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// Bytes that are written at once even before that.
const BUFFER_SIZE: usize = 1 << 20;

const PREFIX: &str = "events.out.tfevents.";

impl EventFile {
    /// Begins a file in a run folder with `step` steps done: whatever earlier files there tell of later steps no longer
    /// counts.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(run: &Path, step: u64) -> Result<EventFile> {
        let write = |path: &Path| File::options().append(true).create_new(true).open(path);
        let path = run.join(free_name(run));
        let file = write(&path).map_err(|error| Error::cannot_write("TensorBoard's events", &path, &error))?;
        let mut events = EventFile { path, file, buffer: Vec::new(), flushed: Instant::now() };
        events.push(&proto::Event { file_version: Some("brain.Event:2".to_owned()), ..now(0) });
        let start = proto::SessionLog { status: proto::SESSION_LOG_START };
        events.push(&proto::Event { session_log: Some(start), ..now(step + 1) });
        events.flush()?;
        Ok(events)
    }

    /// Adds the numbers of a step.
    ///
    /// # Errors
    /// If they cannot be written, such as on a full disk.
    pub fn train(&mut self, metrics: &TrainMetrics) -> Result<()> {
        let mut values = vec![
            scalar("train/loss", metrics.loss),
            scalar("train/grad_norm", metrics.grad_norm),
            scalar("train/learning_rate", metrics.learning_rate),
            scalar("train/tokens_per_s", metrics.tokens_per_s),
            scalar("memory/peak_gib", metrics.peak_memory_bytes as f64 / GIB),
        ];
        values.extend(metrics.mfu.map(|mfu| scalar("train/mfu", mfu)));
        self.add(metrics.step, values)
    }

    /// Adds a held-out loss.
    ///
    /// # Errors
    /// As [`EventFile::train`].
    pub fn eval(&mut self, metrics: &EvalMetrics) -> Result<()> {
        self.add(metrics.step, vec![scalar("eval/loss", metrics.val_loss)])
    }

    /// Adds generated texts, pairs of prompt and text. Those of one prompt are one entry.
    ///
    /// # Errors
    /// As [`EventFile::train`].
    pub fn samples(&mut self, step: u64, samples: &[(String, String)]) -> Result<()> {
        let mut values: Vec<proto::Value> = Vec::new();
        let mut rest = samples;
        while let Some((prompt, _)) = rest.first() {
            let (same, others) = rest.split_at(rest.iter().take_while(|(other, _)| other == prompt).count());
            // TensorBoard shows Markdown, where indented lines are shown as they are.
            let lines = same.iter().flat_map(|(_, text)| text.lines().chain([""]));
            let text: String = lines.map(|line| format!("    {line}\n")).collect();
            values.push(text_value(&format!("samples/{}", values.len() + 1), &text));
            rest = others;
        }
        self.add(step, values)
    }

    fn add(&mut self, step: u64, value: Vec<proto::Value>) -> Result<()> {
        self.push(&proto::Event { summary: Some(proto::Summary { value }), ..now(step) });
        if self.buffer.len() >= BUFFER_SIZE || self.flushed.elapsed() >= FLUSH_INTERVAL { self.flush() } else { Ok(()) }
    }

    fn push(&mut self, event: &proto::Event) {
        push_record(&mut self.buffer, &event.encode_to_vec());
    }

    /// Writes what is held back.
    ///
    /// # Errors
    /// As [`EventFile::train`].
    pub fn flush(&mut self) -> Result<()> {
        self.flushed = Instant::now();
        let written = self.file.write_all(&self.buffer);
        self.buffer.clear();
        written.map_err(|error| Error::cannot_write("TensorBoard's events", &self.path, &error))
    }
}

/// Even where training fails, what was recorded is to be seen.
impl Drop for EventFile {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!("{error}");
        }
    }
}

const GIB: f64 = (1u64 << 30) as f64;

/// A name after those of all event files of the folder: it begins with a second, and no two with the same.
fn free_name(run: &Path) -> String {
    let second = |name: &str| -> Option<u64> { name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok() };
    let entries = fs::read_dir(run).into_iter().flatten().filter_map(io::Result::ok);
    let last = entries.filter_map(|entry| second(entry.file_name().to_str()?)).max();
    let now = unix_time() as u64;
    let second = last.map_or(now, |last| now.max(last.saturating_add(1)));
    // Beside letters and digits, a host's name may have dots and hyphens; a name of another kind is not worth having.
    let host: String = super::host::name().chars().filter(|c| c.is_ascii_alphanumeric() || ".-".contains(*c)).collect();
    format!("{PREFIX}{second:010}.{}", if host.is_empty() { "localhost" } else { &host })
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn now(step: u64) -> proto::Event {
    proto::Event { wall_time: unix_time(), step: step.cast_signed(), ..proto::Event::default() }
}

fn scalar(tag: &str, value: f64) -> proto::Value {
    proto::Value { tag: tag.to_owned(), simple_value: Some(value as f32), ..proto::Value::default() }
}

fn text_value(tag: &str, text: &str) -> proto::Value {
    let plugin_data = proto::PluginData { plugin_name: "text".to_owned() };
    proto::Value {
        tag: tag.to_owned(),
        metadata: Some(proto::SummaryMetadata { plugin_data: Some(plugin_data), data_class: proto::DATA_CLASS_TENSOR }),
        tensor: Some(proto::Tensor {
            dtype: proto::DT_STRING,
            tensor_shape: Some(proto::TensorShape { dim: vec![proto::Dim { size: 1 }] }),
            string_val: vec![text.as_bytes().to_vec()],
        }),
        ..proto::Value::default()
    }
}

/// A TFRecord: the length, its checksum, the data, their checksum.
fn push_record(buffer: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    buffer.extend_from_slice(&length);
    buffer.extend_from_slice(&masked_crc(&length).to_le_bytes());
    buffer.extend_from_slice(data);
    buffer.extend_from_slice(&masked_crc(data).to_le_bytes());
}

/// CRC-32C, rotated and shifted as the format wants, so that the checksum of data with checksums inside is no special one.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The messages, as far as they are used, with the field numbers of TensorFlow's `event.proto`, `summary.proto`,
/// `tensor.proto` and `tensor_shape.proto`.
mod proto {
    pub(super) const SESSION_LOG_START: i32 = 1;
    pub(super) const DATA_CLASS_TENSOR: i32 = 2;
    pub(super) const DT_STRING: i32 = 7;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Event {
        #[prost(double, tag = "1")]
        pub(super) wall_time: f64,
        #[prost(int64, tag = "2")]
        pub(super) step: i64,
        // One of the following three.
        #[prost(string, optional, tag = "3")]
        pub(super) file_version: Option<String>,
        #[prost(message, optional, tag = "5")]
        pub(super) summary: Option<Summary>,
        #[prost(message, optional, tag = "7")]
        pub(super) session_log: Option<SessionLog>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SessionLog {
        #[prost(int32, tag = "1")]
        pub(super) status: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Summary {
        #[prost(message, repeated, tag = "1")]
        pub(super) value: Vec<Value>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Value {
        #[prost(string, tag = "1")]
        pub(super) tag: String,
        // One of this and `tensor`. The type has a presence, for a loss of 0 is a value too.
        #[prost(float, optional, tag = "2")]
        pub(super) simple_value: Option<f32>,
        #[prost(message, optional, tag = "8")]
        pub(super) tensor: Option<Tensor>,
        #[prost(message, optional, tag = "9")]
        pub(super) metadata: Option<SummaryMetadata>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SummaryMetadata {
        #[prost(message, optional, tag = "1")]
        pub(super) plugin_data: Option<PluginData>,
        #[prost(int32, tag = "4")]
        pub(super) data_class: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct PluginData {
        #[prost(string, tag = "1")]
        pub(super) plugin_name: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Tensor {
        #[prost(int32, tag = "1")]
        pub(super) dtype: i32,
        #[prost(message, optional, tag = "2")]
        pub(super) tensor_shape: Option<TensorShape>,
        #[prost(bytes = "vec", repeated, tag = "8")]
        pub(super) string_val: Vec<Vec<u8>>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct TensorShape {
        #[prost(message, repeated, tag = "2")]
        pub(super) dim: Vec<Dim>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Dim {
        #[prost(int64, tag = "1")]
        pub(super) size: i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The records of a file, their checksums verified by another computation than the one that made them: bit by bit,
    /// with Castagnoli's polynomial.
    fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
        let crc = |data: &[u8]| -> u32 {
            let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            let crc = !data.iter().fold(!0u32, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)));
            crc.rotate_right(15).wrapping_add(0xa282_ead8)
        };
        let mut rest = bytes;
        let mut records = Vec::new();
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(word(&rest[8..12]), crc(&rest[..8]), "the length's checksum");
            let data = &rest[12..12 + length];
            assert_eq!(word(&rest[12 + length..16 + length]), crc(data), "the data's checksum");
            records.push(data.to_vec());
            rest = &rest[16 + length..];
        }
        records
    }

    /// Events of all files of a folder, in the order TensorBoard reads them.
    fn events(run: &Path) -> Vec<proto::Event> {
        let entries = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = entries.collect();
        files.sort();
        let decode = |record: Vec<u8>| proto::Event::decode(&*record).unwrap();
        files.iter().flat_map(|path| records(&fs::read(path).unwrap())).map(decode).collect()
    }

    #[test]
    fn the_checksum_is_the_standards() {
        // The check value of CRC-32C, and its mask undone.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_crc(b"123456789").wrapping_sub(0xa282_ead8).rotate_left(15), 0xe306_9283);
    }

    #[test]
    fn what_was_recorded_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(folder.path(), 0).unwrap();
        let metrics = TrainMetrics {
            step: 1,
            loss: 2.5,
            grad_norm: 0.0,
            learning_rate: 1e-3,
            tokens_per_s: 1e6,
            step_ms: 1.0,
            peak_memory_bytes: 1 << 31,
            mfu: Some(0.25),
        };
        file.train(&metrics).unwrap();
        file.eval(&EvalMetrics { step: 1, val_loss: 2.75, ..EvalMetrics::default() }).unwrap();
        let sample = |prompt: &str, text: &str| (prompt.to_owned(), text.to_owned());
        file.samples(1, &[sample("a", "ab\n# c"), sample("a", "ad"), sample("b", "bc")]).unwrap();
        drop(file);

        let found = events(folder.path());
        assert_eq!(found[0].file_version.as_deref(), Some("brain.Event:2"));
        assert_eq!(found[1].session_log.as_ref().map(|log| log.status), Some(1));
        assert!(found.iter().all(|event| event.wall_time > 1.7e9));
        let scalars: Vec<(i64, String, f32)> = found
            .iter()
            .flat_map(|event| event.summary.iter().flat_map(|summary| &summary.value).map(|value| (event.step, value)))
            .filter_map(|(step, value)| Some((step, value.tag.clone(), value.simple_value?)))
            .collect();
        let expected = [
            ("train/loss", 2.5),
            ("train/grad_norm", 0.0),
            ("train/learning_rate", 1e-3),
            ("train/tokens_per_s", 1e6),
            ("memory/peak_gib", 2.0),
            ("train/mfu", 0.25),
            ("eval/loss", 2.75),
        ];
        assert_eq!(scalars, expected.map(|(tag, value)| (1, tag.to_owned(), value)));
        let texts = found.last().and_then(|event| event.summary.clone()).unwrap().value;
        let text = |value: &proto::Value| {
            assert_eq!(value.metadata.as_ref().unwrap().plugin_data.as_ref().unwrap().plugin_name, "text");
            String::from_utf8(value.tensor.as_ref().unwrap().string_val[0].clone()).unwrap()
        };
        assert_eq!(
            texts.iter().map(text).collect::<Vec<_>>(),
            ["    ab\n    # c\n    \n    ad\n    \n", "    bc\n    \n"]
        );
        assert_eq!(texts.iter().map(|value| &*value.tag).collect::<Vec<_>>(), ["samples/1", "samples/2"]);
    }

    #[test]
    fn a_continued_run_takes_back_what_it_does_again() {
        let folder = tempfile::tempdir().unwrap();
        let train = |file: &mut EventFile, step| file.train(&TrainMetrics { step, ..TrainMetrics::default() }).unwrap();
        let mut file = EventFile::create(folder.path(), 0).unwrap();
        (1..=5).for_each(|step| train(&mut file, step));
        drop(file);
        let mut file = EventFile::create(folder.path(), 3).unwrap();
        (4..=6).for_each(|step| train(&mut file, step));
        drop(file);
        // As TensorBoard does: at a start, what is of that step or later is dropped.
        let mut steps: Vec<i64> = Vec::new();
        for event in events(folder.path()) {
            if event.session_log.is_some() {
                steps.retain(|&step| step < event.step);
            } else if event.summary.is_some() {
                steps.push(event.step);
            }
        }
        assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    }
}

//! What the server counts, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::engine::Figures;

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the histograms' buckets, in seconds: from a token of a small model to a long text of a large one.
const BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

/// How often durations were how long.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [Counter; BOUNDS.len()],
    count: Counter,
    microseconds: Counter,
}

impl Histogram {
    pub(super) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        for (bucket, _) in self.buckets.iter().zip(BOUNDS).filter(|(_, bound)| seconds <= *bound) {
            bucket.add(1);
        }
        self.count.add(1);
        self.microseconds.add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    /// Requests by path and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    pub(super) prompt_tokens: Counter,
    pub(super) generated_tokens: Counter,
    pub(super) cancelled: Counter,
    pub(super) timed_out: Counter,
    pub(super) queue_time: Histogram,
    pub(super) time_to_first_token: Histogram,
    pub(super) request_time: Histogram,
    running: AtomicU64,
    engine: Mutex<Figures>,
}

impl Metrics {
    /// Counts a request that was answered.
    pub(super) fn count_request(&self, path: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((path, status)).or_default() += 1;
    }

    /// Takes how many texts are being generated.
    pub(super) fn set_running(&self, running: usize) {
        self.running.store(running as u64, Ordering::Relaxed);
    }

    /// Takes what the engine says.
    pub(super) fn observe_engine(&self, figures: &Figures) {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).clone_from(figures);
    }

    /// Texts that are being generated.
    pub(super) fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    /// The text that Prometheus reads, with `waiting` texts in the queue.
    pub(super) fn text(&self, waiting: usize) -> String {
        let mut out = String::new();
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        head(&mut out, "lmc_requests_total", "counter", "Requests that were answered, by path and status.");
        for ((path, status), count) in requests {
            _ = writeln!(out, "lmc_requests_total{{path=\"{path}\",status=\"{status}\"}} {count}");
        }
        for (name, help, counter) in [
            ("lmc_prompt_tokens_total", "Tokens of prompts.", &self.prompt_tokens),
            ("lmc_generated_tokens_total", "Tokens that were generated.", &self.generated_tokens),
            ("lmc_cancelled_total", "Texts that nobody waited for any more.", &self.cancelled),
            ("lmc_timed_out_total", "Texts whose time was over.", &self.timed_out),
        ] {
            single(&mut out, name, "counter", help, counter.get() as f64);
        }
        single(&mut out, "lmc_running", "gauge", "Texts that are being generated.", self.running() as f64);
        single(&mut out, "lmc_waiting", "gauge", "Texts that wait for a slot.", waiting as f64);
        let figures = self.engine.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, help, value) in [
            ("lmc_prefill_tokens_per_second", "Tokens of prompts a second.", figures.prefill_rate()),
            ("lmc_decode_tokens_per_second", "Generated tokens a second, while generating.", figures.decode_rate()),
            ("lmc_compilations", "Programs compiled or loaded.", figures.compilations as f64),
            ("lmc_cache_bytes", "Bytes of the cache of keys and values.", figures.cache_bytes as f64),
            ("lmc_weight_bytes", "Bytes of the weights.", figures.weight_bytes as f64),
        ] {
            single(&mut out, name, "gauge", help, value);
        }
        if let Some(bytes) = figures.peak_memory_bytes {
            single(&mut out, "lmc_peak_memory_bytes", "gauge", "The most memory taken so far.", bytes as f64);
        }
        for (name, help, histogram) in [
            ("lmc_queue_seconds", "Time until a text has a slot.", &self.queue_time),
            ("lmc_time_to_first_token_seconds", "Time until a text's first token.", &self.time_to_first_token),
            ("lmc_request_seconds", "Time until an answer begins.", &self.request_time),
        ] {
            head(&mut out, name, "histogram", help);
            for (bound, bucket) in BOUNDS.iter().zip(&histogram.buckets) {
                _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {}", bucket.get());
            }
            let count = histogram.count.get();
            _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}");
            _ = writeln!(out, "{name}_sum {}", histogram.microseconds.get() as f64 / 1e6);
            _ = writeln!(out, "{name}_count {count}");
        }
        out
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn single(out: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    head(out, name, kind, help);
    _ = writeln!(out, "{name} {value}");
}

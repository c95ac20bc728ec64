//! Where the time of a run goes: every moment belongs to one activity, so that the parts make up the whole.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::quantity::duration_with_tenths;

/// What a training process does at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activity {
    /// Lowering and compiling programs, or loading them from the compile cache.
    Compile,
    /// Waiting for a batch. The device may still be busy with the step before.
    Data,
    /// Starting steps, waiting for them and reading their metrics.
    Step,
    /// Measuring the held-out loss.
    Evaluation,
    /// Copying the state for a checkpoint, and saving it as far as training has to wait.
    Checkpoint,
    /// Drawing samples.
    Samples,
    /// Everything else: opening data and device, making initial weights, writing the report.
    Other,
}

impl Activity {
    /// All of them, in the order they are shown in.
    pub const ALL: [Activity; 7] = [
        Activity::Compile,
        Activity::Data,
        Activity::Step,
        Activity::Evaluation,
        Activity::Checkpoint,
        Activity::Samples,
        Activity::Other,
    ];

    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Activity::Compile => "compile",
            Activity::Data => "data wait",
            Activity::Step => "step",
            Activity::Evaluation => "evaluation",
            Activity::Checkpoint => "checkpoint",
            Activity::Samples => "samples",
            Activity::Other => "other",
        }
    }
}

/// A clock that is always on one activity.
#[derive(Debug)]
pub struct TimeAccount {
    began: Instant,
    current: Activity,
    since: Instant,
    spent: [Duration; Activity::ALL.len()],
}

impl TimeAccount {
    /// Starts the clock, on `Other`.
    pub fn begin() -> TimeAccount {
        let now = Instant::now();
        TimeAccount { began: now, current: Activity::Other, since: now, spent: Default::default() }
    }

    /// What follows belongs to `to`. Returns what it was until now, to switch back to.
    pub fn switch(&mut self, to: Activity) -> Activity {
        self.switch_at(to, Instant::now())
    }

    fn switch_at(&mut self, to: Activity, now: Instant) -> Activity {
        self.spent[self.current as usize] += now.saturating_duration_since(self.since);
        self.since = now;
        std::mem::replace(&mut self.current, to)
    }

    /// Does something that belongs to `activity`.
    pub fn time<T>(&mut self, activity: Activity, work: impl FnOnce() -> T) -> T {
        let before = self.switch(activity);
        let result = work();
        self.switch(before);
        result
    }

    /// The time until now by activity.
    pub fn spent(&mut self) -> TimeSpent {
        let now = Instant::now();
        self.switch_at(self.current, now);
        let seconds = |activity: Activity| self.spent[activity as usize].as_secs_f64();
        TimeSpent {
            total: now.saturating_duration_since(self.began).as_secs_f64(),
            compile: seconds(Activity::Compile),
            data: seconds(Activity::Data),
            step: seconds(Activity::Step),
            evaluation: seconds(Activity::Evaluation),
            checkpoint: seconds(Activity::Checkpoint),
            samples: seconds(Activity::Samples),
            other: seconds(Activity::Other),
        }
    }
}

/// Seconds of a process by activity, as `metrics.jsonl` has them. The parts sum to `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeSpent {
    /// From the start of training to now.
    pub total: f64,
    /// [`Activity::Compile`].
    pub compile: f64,
    /// [`Activity::Data`].
    pub data: f64,
    /// [`Activity::Step`].
    pub step: f64,
    /// [`Activity::Evaluation`].
    pub evaluation: f64,
    /// [`Activity::Checkpoint`].
    pub checkpoint: f64,
    /// [`Activity::Samples`].
    pub samples: f64,
    /// [`Activity::Other`].
    pub other: f64,
}

impl TimeSpent {
    /// Seconds of an activity.
    pub fn seconds(&self, activity: Activity) -> f64 {
        match activity {
            Activity::Compile => self.compile,
            Activity::Data => self.data,
            Activity::Step => self.step,
            Activity::Evaluation => self.evaluation,
            Activity::Checkpoint => self.checkpoint,
            Activity::Samples => self.samples,
            Activity::Other => self.other,
        }
    }

    /// Both together, as of a run that was continued by another process.
    pub fn plus(&self, other: &TimeSpent) -> TimeSpent {
        TimeSpent {
            total: self.total + other.total,
            compile: self.compile + other.compile,
            data: self.data + other.data,
            step: self.step + other.step,
            evaluation: self.evaluation + other.evaluation,
            checkpoint: self.checkpoint + other.checkpoint,
            samples: self.samples + other.samples,
            other: self.other + other.other,
        }
    }

    /// A line for people: the activities that took a thousandth of the time or more.
    pub fn describe(&self) -> String {
        let whole = self.total.max(f64::MIN_POSITIVE);
        let parts: Vec<String> = Activity::ALL
            .into_iter()
            .filter(|&activity| self.seconds(activity) >= whole / 1000.0)
            .map(|activity| format!("{} {:.1} %", activity.name(), 100.0 * self.seconds(activity) / whole))
            .collect();
        format!("{} in all: {}", duration_with_tenths(self.total), parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_make_up_the_whole() {
        let mut account = TimeAccount::begin();
        let start = account.began;
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(account.switch_at(Activity::Compile, at(10)), Activity::Other);
        assert_eq!(account.switch_at(Activity::Data, at(110)), Activity::Compile);
        account.switch_at(Activity::Step, at(115));
        account.switch_at(Activity::Data, at(315));
        account.switch_at(Activity::Step, at(316));
        assert_eq!(account.spent[Activity::Other as usize], Duration::from_millis(10));
        assert_eq!(account.spent[Activity::Compile as usize], Duration::from_millis(100));
        assert_eq!(account.spent[Activity::Data as usize], Duration::from_millis(6));
        assert_eq!(account.spent[Activity::Step as usize], Duration::from_millis(200));

        assert_eq!(account.spent.iter().sum::<Duration>(), account.since - start);
    }

    #[test]
    fn nothing_is_lost_on_a_real_clock() {
        let mut account = TimeAccount::begin();
        for activity in Activity::ALL {
            account.time(activity, || std::hint::black_box((0..1000).sum::<u64>()));
        }
        let nested = account.time(Activity::Samples, || 7);
        assert_eq!((nested, account.current), (7, Activity::Other), "back to what it was");
        let spent = account.spent();
        let sum: f64 = Activity::ALL.into_iter().map(|activity| spent.seconds(activity)).sum();
        assert!((sum - spent.total).abs() < 1e-6, "{spent:?}");
        assert_eq!(spent.plus(&spent).total, 2.0 * spent.total);
    }

    #[test]
    fn the_line_leaves_out_what_took_no_time() {
        let spent = TimeSpent { total: 200.0, step: 150.0, compile: 50.0, ..TimeSpent::default() };
        assert_eq!(spent.describe(), "3m 20s in all: compile 25.0 %, step 75.0 %");
    }
}

//! How fast steps go, from the times at which they were seen to end.

use std::collections::VecDeque;

/// The times of the last steps.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Tokens and seconds of each, the newest last.
    recent: VecDeque<(f64, f64)>,
}

/// How many steps tell what is usual.
const USUAL: usize = 16;

impl Pace {
    /// Tokens a second of a step that ended `seconds` after the one before was seen to end.
    ///
    /// The end of a step may be seen late, when the next one has run already, for which then next to nothing is left. Such a
    /// step, of less than half of what is usual, has the rate of both together.
    pub(super) fn tokens_per_s(&mut self, tokens: f64, seconds: f64) -> f64 {
        let is_usual = self.usual().is_none_or(|usual| seconds >= usual / 2.0);
        let (all_tokens, all_seconds) = match self.recent.back() {
            Some(before) if !is_usual => (before.0 + tokens, before.1 + seconds),
            Some(_) | None => (tokens, seconds),
        };
        if self.recent.len() == USUAL {
            self.recent.pop_front();
        }
        self.recent.push_back((tokens, seconds));
        all_tokens / all_seconds
    }

    /// The median of the last steps' seconds.
    fn usual(&self) -> Option<f64> {
        let mut seconds: Vec<f64> = self.recent.iter().map(|(_, seconds)| *seconds).collect();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rates of steps of 1000 tokens.
    #[track_caller]
    fn check(seconds: &[f64], expected: &[f64]) {
        let mut pace = Pace::default();
        let found: Vec<f64> = seconds.iter().map(|&seconds| pace.tokens_per_s(1000.0, seconds).round()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_step_whose_predecessor_ended_unseen_is_not_faster() {
        check(&[1.0, 1.0, 1.0], &[1000.0, 1000.0, 1000.0]);
        // The fourth was seen to end when the fifth had run.
        check(&[1.0, 1.0, 1.0, 2.0, 0.001, 1.0], &[1000.0, 1000.0, 1000.0, 500.0, 1000.0, 1000.0]);
        // One that really stalled leaves the next one as it is.
        check(&[1.0, 1.0, 1.0, 50.0, 1.0], &[1000.0, 1000.0, 1000.0, 20.0, 1000.0]);
        // So do steps that become faster for good.
        check(&[4.0, 2.0, 2.0], &[250.0, 500.0, 500.0]);
    }
}

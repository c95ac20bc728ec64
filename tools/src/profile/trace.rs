//! A profile as a trace that Perfetto and Chrome open: the JSON form of trace events.

use serde_json::{Value, json};

use super::Profile;

/// The trace: one track with the measured steps, one with the parts of a step, each as long as its runs together, in the
/// order of the program.
pub fn trace_json(profile: &Profile) -> Value {
    const MICROSECONDS: f64 = 1e6;
    let track = |thread: u32, name: &str| {
        let args = json!({ "name": name });
        json!({ "name": "thread_name", "ph": "M", "pid": 1, "tid": thread, "args": args })
    };
    let process = json!({ "name": format!("lmc on {}", profile.device) });
    let mut events = vec![
        json!({ "name": "process_name", "ph": "M", "pid": 1, "args": process }),
        track(1, "steps, measured whole"),
        track(2, "parts of a step, measured apart"),
    ];
    let mut start = 0.0;
    for (number, seconds) in (1..).zip(&profile.step_seconds) {
        let duration = seconds * MICROSECONDS;
        let name = format!("step {number}");
        events
            .push(json!({ "name": name, "cat": "step", "ph": "X", "pid": 1, "tid": 1, "ts": start, "dur": duration }));
        start += duration;
    }
    start = 0.0;
    for part in &profile.parts {
        let duration = part.seconds * MICROSECONDS;
        events.push(json!({
            "name": format!("{} {}", part.layer, part.pass.name()),
            "cat": part.pass.name(),
            "ph": "X",
            "pid": 1,
            "tid": 2,
            "ts": start,
            "dur": duration,
            "args": { "runs": part.times, "flops": part.flops, "bytes": part.bytes, "roofline": part.roofline },
        }));
        start += duration;
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{PartTime, Pass, Roofline};

    #[test]
    fn parts_follow_each_other() {
        let part = |layer: &str, pass, seconds| PartTime {
            layer: layer.to_owned(),
            pass,
            times: 2,
            seconds,
            flops: 8.0,
            bytes: 4.0,
            roofline: 0.5,
        };
        let profile = Profile {
            device: "cpu".to_owned(),
            step_seconds: vec![0.5, 0.25],
            parts: vec![part("h.0", Pass::Forward, 0.125), part("h.0", Pass::Backward, 0.25)],
            roofline: Roofline { flops: 1.0, bytes: 1.0 },
            tokens_per_step: 1,
        };
        let trace = trace_json(&profile);
        let events = trace["traceEvents"].as_array().expect("a list");
        let whole: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
        let places: Vec<_> = whole.iter().map(|event| (&event["name"], &event["ts"], &event["dur"])).collect();
        assert_eq!(
            places,
            [
                (&json!("step 1"), &json!(0.0), &json!(500_000.0)),
                (&json!("step 2"), &json!(500_000.0), &json!(250_000.0)),
                (&json!("h.0 forward"), &json!(0.0), &json!(125_000.0)),
                (&json!("h.0 backward"), &json!(125_000.0), &json!(250_000.0)),
            ]
        );
    }
}

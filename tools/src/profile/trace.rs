//! A profile as a trace that Perfetto and Chrome open: the JSON form of trace events.

use serde_json::{Value, json};

use super::Profile;

/// The trace: one track with the measured steps, one with the parts of a step, each as long as its runs together, in the
/// order of the program.
///
/// Source: Perfetto's page on other formats. Complete events (`X`) of a track must not overlap, and Perfetto counts in
/// nanoseconds: so all begin and end at whole ones, each where the one before ended. `M` events give the tracks their names.
pub fn trace_json(profile: &Profile) -> Value {
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
    let places = consecutive(profile.step_seconds.iter().copied());
    for (number, (start, duration)) in (1..).zip(places) {
        let name = format!("step {number}");
        events
            .push(json!({ "name": name, "cat": "step", "ph": "X", "pid": 1, "tid": 1, "ts": start, "dur": duration }));
    }
    let places = consecutive(profile.parts.iter().map(|part| part.seconds));
    for (part, (start, duration)) in profile.parts.iter().zip(places) {
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
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}

/// Where times of so many seconds begin and how long they are if one follows the other, in microseconds, the unit of the
/// format, at whole nanoseconds.
fn consecutive(seconds: impl Iterator<Item = f64>) -> impl Iterator<Item = (f64, f64)> {
    seconds.scan(0.0, |before: &mut f64, seconds| {
        let (start, end) = ((*before * 1e9).round(), ((*before + seconds) * 1e9).round());
        *before += seconds;
        Some((start / 1e3, (end - start) / 1e3))
    })
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
        check_form(&trace);
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
    /// What Perfetto's page says of the format: the kinds of events it shows, their fields, and that those of a track do not
    /// overlap, in nanoseconds.
    fn check_form(trace: &serde_json::Value) {
        let events = trace["traceEvents"].as_array().expect("a list of events");
        let mut ends = std::collections::HashMap::new();
        for event in events {
            assert!(event["name"].is_string() && event["pid"].is_u64(), "{event}");
            match event["ph"].as_str() {
                Some("M") => assert!(event["args"]["name"].is_string(), "{event}"),
                Some("X") => {
                    let nanoseconds = |key: &str| {
                        let exact = event[key].as_f64().expect("a number") * 1e3;
                        assert!((exact - exact.round()).abs() < 1e-3, "{key} of {event}");
                        exact.round() as i64
                    };
                    let (start, duration) = (nanoseconds("ts"), nanoseconds("dur"));
                    let end = ends.entry(event["tid"].as_u64().expect("a track")).or_insert(0);
                    assert!(start >= *end && duration >= 0, "{event} begins before {end}");
                    *end = start + duration;
                }
                other => panic!("{other:?} is no event that is shown"),
            }
        }
    }

    #[test]
    fn events_of_any_length_do_not_overlap() {
        let step_seconds = (1..2000).map(|i| f64::from(i).sqrt() * 1e-4).collect();
        let profile = Profile {
            device: "cpu".to_owned(),
            step_seconds,
            parts: Vec::new(),
            roofline: Roofline { flops: 1.0, bytes: 1.0 },
            tokens_per_step: 1,
        };
        check_form(&trace_json(&profile));
    }
}

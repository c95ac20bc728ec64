//! A profile as a trace that Perfetto and Chrome open: the JSON form of trace events.

use serde_json::{Value, json};

use super::kernels::{Kernel, Stream};
use super::{Pass, Profile};

/// The trace. Of a profile whose parts were measured apart: one track with the measured steps, one with the parts of a step,
/// each as long as its runs together, in the order of the program. Of a recording: the kernels as they ran, in the process
/// "kernels" by their own names and in the process "layers" by layer and pass, a track for each stream.
///
/// Source: Perfetto's page on other formats. Complete events (`X`) of a track must not overlap, and Perfetto counts in
/// nanoseconds: so all begin and end at whole ones, each where the one before ended, and what ran on a stream beside
/// something else is on a track of its own. `M` events give processes and tracks their names.
pub fn trace_json(profile: &Profile) -> Value {
    let mut events = Events::default();
    match &profile.recording {
        None => apart(profile, &mut events),
        Some(recording) => {
            events.process(1, &format!("lmc on {}: kernels", profile.device));
            events.process(2, &format!("lmc on {}: layers", profile.device));
            let mut track = 0;
            for stream in &recording.timeline.streams {
                for (number, lane) in (1..).zip(lanes(stream)) {
                    track += 1;
                    let name = if number == 1 { stream.name.clone() } else { format!("{} ({number})", stream.name) };
                    events.track(1, track, &name);
                    events.track(2, track, &name);
                    lane.iter().for_each(|kernel| events.kernel(track, kernel));
                    layers(&lane).iter().for_each(|layer| events.layer(track, layer));
                }
            }
        }
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events.0 })
}

/// The parts that were measured apart, one after the other.
fn apart(profile: &Profile, events: &mut Events) {
    events.process(1, &format!("lmc on {}", profile.device));
    events.track(1, 1, "steps, measured whole");
    events.track(1, 2, "parts of a step, measured apart");
    let places = consecutive(profile.step_seconds.iter().copied());
    for (number, place) in (1..).zip(places) {
        events.complete((1, 1), &format!("step {number}"), "step", place, json!({}));
    }
    let places = consecutive(profile.parts.iter().map(|part| part.seconds));
    for (part, place) in profile.parts.iter().zip(places) {
        let args = json!({ "runs": part.times, "flops": part.flops, "bytes": part.bytes, "roofline": part.roofline });
        let pass = part.pass.name();
        events.complete((1, 2), &format!("{} {pass}", part.layer), pass, place, args);
    }
}

/// Trace events.
#[derive(Default)]
struct Events(Vec<Value>);

impl Events {
    fn process(&mut self, process: u32, name: &str) {
        self.0.push(json!({ "name": "process_name", "ph": "M", "pid": process, "args": { "name": name } }));
    }

    fn track(&mut self, process: u32, track: u32, name: &str) {
        let args = json!({ "name": name });
        self.0.push(json!({ "name": "thread_name", "ph": "M", "pid": process, "tid": track, "args": args }));
    }

    /// An event on a track of a process, which begins and is so long, in microseconds.
    fn complete(&mut self, (process, track): (u32, u32), name: &str, kind: &str, place: (f64, f64), args: Value) {
        let (start, duration) = place;
        self.0.push(json!({
            "name": name, "cat": kind, "ph": "X", "pid": process, "tid": track, "ts": start, "dur": duration, "args": args,
        }));
    }

    fn kernel(&mut self, track: u32, kernel: &Kernel) {
        let (layer, pass) = kernel.place.as_ref().map_or(("", "no layer"), |(layer, pass)| (&**layer, pass.name()));
        let args = json!({ "instruction": kernel.instruction, "layer": layer, "pass": pass });
        self.complete((1, track), &kernel.name, pass, span(kernel.start_ps, end_of(kernel)), args);
    }

    fn layer(&mut self, track: u32, layer: &Layer<'_>) {
        let (layer_name, pass) = layer.place;
        let args = json!({ "kernels": layer.kernels });
        let place = span(layer.start_ps, layer.end_ps);
        self.complete((2, track), &format!("{layer_name} {}", pass.name()), pass.name(), place, args);
    }
}

fn end_of(kernel: &Kernel) -> i128 {
    kernel.start_ps + kernel.duration_ps
}

/// From and to in picoseconds as begin and length in microseconds, at whole nanoseconds.
fn span(from: i128, to: i128) -> (f64, f64) {
    let whole = |picoseconds: i128| picoseconds.div_euclid(1000);
    (whole(from) as f64 / 1e3, (whole(to) - whole(from)) as f64 / 1e3)
}

/// The kernels of a stream on as few tracks as it takes, so that those of a track do not overlap: a kernel may begin before
/// the one before it has ended.
fn lanes(stream: &Stream) -> Vec<Vec<&Kernel>> {
    let mut lanes: Vec<Vec<&Kernel>> = Vec::new();
    for kernel in &stream.kernels {
        let is_free = |lane: &&mut Vec<&Kernel>| lane.last().is_none_or(|last| end_of(last) <= kernel.start_ps);
        match lanes.iter_mut().find(is_free) {
            Some(lane) => lane.push(kernel),
            None => lanes.push(vec![kernel]),
        }
    }
    lanes
}

/// Kernels of one layer and pass that follow each other.
struct Layer<'k> {
    place: (&'k str, Pass),
    start_ps: i128,
    end_ps: i128,
    kernels: usize,
}

fn layers<'k>(lane: &[&'k Kernel]) -> Vec<Layer<'k>> {
    let mut layers: Vec<Layer<'k>> = Vec::new();
    let mut before = None;
    for kernel in lane {
        let place = kernel.place.as_ref().map(|(layer, pass)| (&**layer, *pass));
        match (layers.last_mut(), place) {
            (Some(last), Some(_)) if before == place => {
                (last.end_ps, last.kernels) = (end_of(kernel), last.kernels + 1);
            }
            (_, Some(place)) => {
                layers.push(Layer { place, start_ps: kernel.start_ps, end_ps: end_of(kernel), kernels: 1 });
            }
            (_, None) => {}
        }
        before = place;
    }
    layers
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
    use crate::profile::{Method, PartTime, Recording, Roofline, Timeline};

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
            method: Method::Apart,
            recording: None,
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
                    let track = (event["pid"].as_u64(), event["tid"].as_u64().expect("a track"));
                    let end = ends.entry(track).or_insert(0);
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
            method: Method::Apart,
            recording: None,
            step_seconds,
            parts: Vec::new(),
            roofline: Roofline { flops: 1.0, bytes: 1.0 },
            tokens_per_step: 1,
        };
        check_form(&trace_json(&profile));
    }

    /// What the recording of a stream with these kernels (name, begin, length, layer) is as a trace.
    fn recorded(kernels: &[(&str, i128, i128, Option<&str>)]) -> Value {
        let kernel = |&(name, start_ps, duration_ps, layer): &(&str, i128, i128, Option<&str>)| Kernel {
            name: name.to_owned(),
            start_ps,
            duration_ps,
            instruction: layer.map(|_| format!("{name}.1")),
            place: layer.map(|layer| (layer.to_owned(), Pass::Backward)),
        };
        let stream = Stream { name: "Stream #7(Kernel)".to_owned(), kernels: kernels.iter().map(kernel).collect() };
        let timeline = Timeline {
            streams: vec![stream],
            places: Vec::new(),
            others: Vec::new(),
            busy_seconds: 0.0,
            event_seconds: 0.0,
            unseen_flops: 0.0,
            warnings: Vec::new(),
        };
        let trace = trace_json(&Profile {
            device: "H200".to_owned(),
            method: Method::Trace,
            recording: Some(Recording { step_seconds: vec![1.0], timeline }),
            step_seconds: vec![1.0],
            parts: Vec::new(),
            roofline: Roofline { flops: 1.0, bytes: 1.0 },
            tokens_per_step: 1,
        });
        check_form(&trace);
        trace
    }

    /// Of a process's events the track, the name, begin and length.
    fn shown(trace: &Value, process: u32) -> Vec<String> {
        let events = trace["traceEvents"].as_array().expect("a list").iter();
        let own = events.filter(|event| event["ph"] == "X" && event["pid"] == process);
        own.map(|e| format!("{} {} {} {}", e["tid"], e["name"].as_str().unwrap_or(""), e["ts"], e["dur"])).collect()
    }

    #[test]
    fn kernels_are_on_their_streams_and_layers_beside_them() {
        let trace = recorded(&[
            ("a", 0, 1_500_000, Some("h.0")),
            ("b", 1_500_999, 500_000, Some("h.0")),
            // Begins before the one before it has ended.
            ("c", 2_000_000, 1_000_000, Some("h.1")),
            ("copy", 4_000_000, 10_000, None),
            ("d", 5_000_000, 1_000_000, Some("h.1")),
        ]);
        assert_eq!(shown(&trace, 1), ["1 a 0.0 1.5", "1 b 1.5 0.5", "1 copy 4.0 0.01", "1 d 5.0 1.0", "2 c 2.0 1.0"]);
        assert_eq!(shown(&trace, 2), ["1 h.0 backward 0.0 2.0", "1 h.1 backward 5.0 1.0", "2 h.1 backward 2.0 1.0"]);
        let names: Vec<&Value> = trace["traceEvents"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|event| event["name"] == "thread_name" && event["pid"] == 1)
            .map(|event| &event["args"]["name"])
            .collect();
        assert_eq!(names, ["Stream #7(Kernel)", "Stream #7(Kernel) (2)"]);
    }
}

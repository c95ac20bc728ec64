//! Recordings whose answers are known.

use super::xplane::{StatValue, When, XEvent, XEventMetadata, XLine, XPlane, XSpace, XStat, XStatMetadata};
use super::{Kernel, Method, Other, Pass, Profile, Reason, Recording, Roofline, Timeline, recorded_parts, timeline};
use crate::inspect::hlo::Module;

/// A program of two layers: a product of the forward pass and one of the backward pass in a loop that runs three times, a
/// fusion of two layers whose result is the second's, and the optimizer of a weight.
const PROGRAM: &str = r#"HloModule train_step, is_scheduled=true

%fused_computation (p.0: f32[8,8]) -> f32[8,8] {
  %p.0 = f32[8,8]{1,0} parameter(0)
  %inner.1 = f32[8,8]{1,0} multiply(%p.0, %p.0), metadata={op_name="micro_batches.h.0.mlp"}
  ROOT %outer.1 = f32[8,8]{1,0} add(%inner.1, %p.0), metadata={op_name="micro_batches.vjp(h.1.mlp)"}
}

%body (state: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %state = (s32[], f32[8,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8,8]{1,0} get-tuple-element(%state), index=1
  %dot.1 = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="micro_batches.h.0.attn"}
  %dot.2 = f32[8,8]{1,0} dot(%dot.1, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="micro_batches.vjp(h.0.attn)"}
  %loop_add_fusion.3 = f32[8,8]{1,0} fusion(%dot.2), kind=kLoop, calls=%fused_computation
  ROOT %next = (s32[], f32[8,8]{1,0}) tuple(%i, %loop_add_fusion.3)
}

%condition (state.1: (s32[], f32[8,8])) -> pred[] {
  %state.1 = (s32[], f32[8,8]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(3)
  ROOT %less = pred[] compare(%j, %limit), direction=LT, metadata={op_name="micro_batches"}
}

ENTRY %main (w: f32[8,8]) -> f32[8,8] {
  %w = f32[8,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,8]{1,0}) tuple(%zero, %w)
  %while.1 = (s32[], f32[8,8]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %sum = f32[8,8]{1,0} get-tuple-element(%while.1), index=1
  ROOT %update.1 = f32[8,8]{1,0} subtract(%w, %sum), metadata={op_name="optimizer.h.0.attn.weight"}
}
"#;

pub(super) fn module() -> Module {
    Module::parse(PROGRAM).expect("HLO text")
}

/// A plane that is being put together.
#[derive(Default)]
struct Plane(XPlane);

/// An event: its name, begin and length in picoseconds, and values that are texts.
type Event<'a> = (&'a str, i64, i64, &'a [(&'a str, &'a str)]);

impl Plane {
    fn named(name: &str) -> Plane {
        Plane(XPlane { name: name.to_owned(), ..XPlane::default() })
    }

    /// The number of a name or a text.
    fn stat(&mut self, name: &str) -> i64 {
        if let Some((&id, _)) = self.0.stat_metadata.iter().find(|(_, metadata)| metadata.name == name) {
            return id;
        }
        let id = self.0.stat_metadata.len() as i64 + 1;
        self.0.stat_metadata.insert(id, XStatMetadata { id, name: name.to_owned(), ..XStatMetadata::default() });
        id
    }

    fn event(&mut self, (name, offset, duration_ps, texts): Event<'_>) -> XEvent {
        let known = self.0.event_metadata.iter().find(|(_, metadata)| metadata.name == name).map(|(&id, _)| id);
        let id = known.unwrap_or(self.0.event_metadata.len() as i64 + 1);
        self.0.event_metadata.insert(id, XEventMetadata { id, name: name.to_owned(), ..XEventMetadata::default() });
        let stat = |(number, &(name, text)): (usize, &(&str, &str))| {
            let metadata_id = self.stat(name);
            // As profilers do, some texts are among the names and some stand where they are used.
            let value = match number % 2 {
                0 => StatValue::Ref(self.stat(text) as u64),
                _ => StatValue::Str(text.to_owned()),
            };
            XStat { metadata_id, value: Some(value) }
        };
        let stats = texts.iter().enumerate().map(stat).collect();
        XEvent { metadata_id: id, when: Some(When::OffsetPs(offset)), duration_ps, stats }
    }

    /// With a line that begins at so many nanoseconds.
    fn line(mut self, name: &str, timestamp_ns: i64, events: &[Event<'_>]) -> Plane {
        let events = events.iter().map(|&event| self.event(event)).collect();
        self.0.lines.push(XLine { name: name.to_owned(), timestamp_ns, events, ..XLine::default() });
        self
    }
}

fn space(planes: Vec<Plane>) -> XSpace {
    XSpace { planes: planes.into_iter().map(|plane| plane.0).collect(), ..XSpace::default() }
}

/// The events of a run of the program, which begins so many picoseconds after the line: each is a microsecond long, and one
/// follows the other.
fn run(begin: i64) -> Vec<Event<'static>> {
    const MODULE: (&str, &str) = ("hlo_module", "train_step");
    const DOT_1: &[(&str, &str)] = &[("hlo_op", "dot.1"), MODULE];
    const DOT_2: &[(&str, &str)] = &[("hlo_op", "dot.2"), MODULE];
    const FUSION: &[(&str, &str)] = &[("hlo_op", "loop_add_fusion.3"), MODULE];
    const UPDATE: &[(&str, &str)] = &[("hlo_op", "update.1"), MODULE];
    let mut kernels: Vec<(&str, &[(&str, &str)])> = Vec::new();
    for _ in 0..3 {
        kernels.extend([("gemm", DOT_1), ("gemm", DOT_2), ("loop_add_fusion_3", FUSION)]);
    }
    kernels.push(("update_1", UPDATE));
    let begins = (0..).map(|number| begin + MICROSECOND * number);
    kernels.into_iter().zip(begins).map(|((name, texts), begin)| (name, begin, MICROSECOND, texts)).collect()
}

const MICROSECOND: i64 = 1_000_000;
const STREAM: &str = "Stream #7(Kernel)";
const GPU: &str = "/device:GPU:0";
/// Some time in 2026.
const NOW: i64 = 1_767_225_600_000_000_000;

fn of(plane: Plane) -> Timeline {
    timeline(&space(vec![plane]), &module()).unwrap_or_else(|error| panic!("{error}"))
}

/// Layer, pass, events and microseconds.
fn places(timeline: &Timeline) -> Vec<(&str, Pass, u64, f64)> {
    let micro = |seconds: f64| (seconds * 1e9).round() / 1e3;
    timeline.places.iter().map(|p| (&*p.layer, p.pass, p.events, micro(p.seconds))).collect()
}

#[test]
fn kernels_belong_to_the_layer_and_pass_of_their_instruction() {
    let events = [run(0), run(20 * MICROSECOND)].concat();
    let timeline = of(Plane::named(GPU).line(STREAM, NOW, &events));
    assert_eq!(
        places(&timeline),
        [
            ("h.0", Pass::Forward, 6, 6.0),
            ("h.0", Pass::Backward, 6, 6.0),
            // The fusion is where its result is.
            ("h.1", Pass::Backward, 6, 6.0),
            ("h.0", Pass::Optimizer, 2, 2.0),
        ]
    );
    // Nothing was seen of the loop's condition, a comparison by three runs.
    assert_eq!((timeline.others.len(), timeline.unseen_flops), (0, 3.0));
    // Two runs of ten microseconds.
    assert!((timeline.busy_seconds - 20e-6).abs() < 1e-12 && (timeline.event_seconds - 20e-6).abs() < 1e-12);
    // Operations of one run: in the loop a product, and 64 of a multiplication and an addition each; 64 of the optimizer.
    let product = 2.0 * 8.0 * 64.0;
    let flops: Vec<f64> = timeline.places.iter().map(|place| place.flops).collect();
    assert_eq!(flops, [3.0 * product, 3.0 * product, 3.0 * 2.0 * 64.0, 64.0]);
    // The fusion reads and writes a matrix; what is fused stays out of memory.
    assert_eq!(timeline.places[2].bytes, 3.0 * 2.0 * 256.0);
    let first: Vec<&Kernel> = timeline.streams[0].kernels.iter().take(2).collect();
    assert_eq!((first[0].start_ps, first[1].start_ps), (0, i128::from(MICROSECOND)));
    assert_eq!((first[1].instruction.as_deref(), &*first[1].name), (Some("dot.2"), "gemm"));
    // What is told of a step.
    let recording = Recording { step_seconds: vec![20e-6; 2], timeline };
    let parts = recorded_parts(&recording, &Roofline { flops: 2.0 * product / 1e-6, bytes: 1e30 });
    assert_eq!((parts[0].times, parts[0].flops), (3, 3.0 * product));
    assert!((parts[0].seconds - 3e-6).abs() < 1e-12 && (parts[0].roofline - 0.5).abs() < 1e-9, "{:?}", parts[0]);
}

#[test]
fn what_names_no_instruction_is_told_apart() {
    let module = ("hlo_module", "train_step");
    let timeline = of(Plane::named(GPU).line(
        STREAM,
        NOW,
        &[
            ("gemm", 0, 10, &[("hlo_op", "dot.1"), module]),
            ("MemcpyH2D", 10, 20, &[]),
            ("Memset", 30, 1, &[("Memset_details", "num_bytes:4")]),
            // A copy that an instruction asked for is that instruction's.
            ("MemcpyD2D", 31, 5, &[("hlo_op", "update.1"), module]),
            ("mystery", 40, 40, &[]),
            ("graph", 80, 80, &[("hlo_op", "while.1"), module]),
            ("stranger", 160, 160, &[("hlo_op", "dot.1"), ("hlo_module", "other")]),
            ("lost", 320, 320, &[("hlo_op", "dot.99"), module]),
            // The name of something fused stands for the fusion.
            ("loop_add_fusion_3", 640, 7, &[("hlo_op", "inner.1"), module]),
        ],
    ));
    let others: Vec<(Reason, u64, f64)> =
        timeline.others.iter().map(|o| (o.what, o.events, (o.seconds * 1e12).round())).collect();
    assert_eq!(
        others,
        [
            (Reason::Copy, 2, 21.0),
            (Reason::NoInstruction, 1, 40.0),
            (Reason::WholeLoop, 1, 80.0),
            (Reason::OtherProgram, 1, 160.0),
            (Reason::UnknownInstruction, 1, 320.0),
        ]
    );
    let seen: Vec<(&str, Pass, u64)> = timeline.places.iter().map(|p| (&*p.layer, p.pass, p.events)).collect();
    assert_eq!(seen, [("h.0", Pass::Forward, 1), ("h.1", Pass::Backward, 1), ("h.0", Pass::Optimizer, 1)]);
    // Of the second product no kernel was seen, nor of the loop's condition, a comparison by three runs.
    assert_eq!(timeline.unseen_flops, 3.0 * 1024.0 + 3.0);
}

#[test]
fn streams_that_run_side_by_side_are_busy_once() {
    let dot = &[("hlo_op", "dot.1")][..];
    let timeline = of(Plane::named(GPU)
        .line(STREAM, NOW, &[("a", 0, 100, dot), ("b", 100, 100, dot)])
        // Half of it beside the other stream, half in a time of its own; the line begins a nanosecond later.
        .line("Stream #9(Kernel)", NOW + 1, &[("c", -900, 200, dot)])
        // No streams: what the profiler costs, counters, and lines that are made of others.
        .line("CUPTI overhead", NOW, &[("flush", 0, 1_000_000, &[])])
        .line("XLA Ops", NOW, &[("dot.1", 0, 200, dot)]));
    let picoseconds = |seconds: f64| (seconds * 1e12).round();
    assert_eq!((picoseconds(timeline.busy_seconds), picoseconds(timeline.event_seconds)), (300.0, 400.0));
    let names: Vec<&str> = timeline.streams.iter().map(|stream| &*stream.name).collect();
    assert_eq!(names, [STREAM, "Stream #9(Kernel)"]);
    assert_eq!(timeline.streams[1].kernels[0].start_ps, 100);
    assert_eq!(timeline.places[0].events, 3);
}

#[test]
fn what_cannot_be_told_is_an_error() {
    let refused = |space: &XSpace| timeline(space, &module()).expect_err("refused");
    assert!(refused(&XSpace::default()).contains("streams of a GPU, found nothing at all"));
    let host = space(vec![Plane::named("/host:CPU").line("thread", NOW, &[("f", 0, 1, &[])])]);
    assert!(refused(&host).contains("found `/host:CPU` with 1 events on 1 lines"), "{}", refused(&host));
    let failed = XSpace { errors: vec!["CUPTI_ERROR_INSUFFICIENT_PRIVILEGES".to_owned()], ..host };
    assert!(refused(&failed).contains("reports: CUPTI_ERROR_INSUFFICIENT_PRIVILEGES"));
    let mut counted = space(vec![Plane::named(GPU).line(STREAM, NOW, &[("f", 0, 1, &[])])]);
    counted.planes[0].lines[0].events[0].when = Some(When::NumOccurrences(4));
    assert!(refused(&counted).contains("the time of `f` on a stream, found that it ran 4 times"));
    let backwards = space(vec![Plane::named(GPU).line(STREAM, NOW, &[("f", 0, -1, &[])])]);
    assert!(refused(&backwards).contains("found -1 ps"));
}

#[test]
fn numbers_of_any_size_are_added() {
    let dot = &[("hlo_op", "dot.1")][..];
    let events = [("a", i64::MAX, i64::MAX, dot), ("b", i64::MIN, i64::MAX, dot), ("c", 0, 0, dot)];
    let timeline = of(Plane::named(GPU).line(STREAM, i64::MIN, &events).line(STREAM, i64::MAX, &events));
    assert!(timeline.event_seconds >= timeline.busy_seconds && timeline.busy_seconds > 0.0);
}

#[test]
fn the_table_says_how_it_was_measured() {
    let mut plane = Plane::named(GPU).line(STREAM, NOW, &run(0));
    let copy = plane.event(("MemcpyH2D", 10 * MICROSECOND, 10 * MICROSECOND, &[]));
    plane.0.lines[0].events.push(copy);
    let mut record = space(vec![plane]);
    record.warnings.push("2 events were dropped".to_owned());
    let timeline = timeline(&record, &module()).expect("a timeline");
    let recording = Recording { step_seconds: vec![40e-6], timeline };
    let roofline = Roofline { flops: 1e12, bytes: 1e12 };
    let profile = Profile {
        device: "H200".to_owned(),
        method: Method::Trace,
        step_seconds: vec![30e-6],
        parts: recorded_parts(&recording, &roofline),
        recording: Some(recording),
        roofline,
        tokens_per_step: 300,
    };
    let text = profile.to_string();
    let lines: Vec<&str> = text.lines().take(10).collect();
    assert!(lines[0].starts_with("a step takes 30.0 us on H200, "), "{text}");
    assert_eq!(lines[1], "forward 15 %, recompute 0 %, backward 30 %, optimizer 5 %, no layer's 50 %");
    let expected = "recorded by the plugin's profiler in 1 more steps, with every kernel started by itself: 40.0 us a step, \
                    the device busy 50.0 % of it";
    assert!(lines.contains(&expected), "{text}");
    assert!(
        lines.contains(&"  no layer's: 10.0 us a step of copies and fills of no instruction, 1.0 of them"),
        "{text}"
    );
    assert!(lines.contains(&"  the profiler says: 2 events were dropped"), "{text}");
    let json = serde_json::to_value(&profile).expect("JSON");
    assert_eq!(
        (&json["method"], &json["recording"]["timeline"]["others"][0]["what"]),
        (&"trace".into(), &"copy".into())
    );
    let others: &Vec<Other> = &profile.recording.as_ref().expect("recorded").timeline.others;
    assert_eq!(others.len(), 1);
}

//! Records that others wrote, beside what others read of them (`tests/references/record_profile.py`), and bytes of any kind.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use prost::Message;
use serde_json::Value;

use super::xplane::{StatValue, Stats, When, XSpace, XStat};

fn references() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/references")
}

fn recorded(name: &str) -> XSpace {
    let path = references().join(format!("profile_{name}.xplane.pb"));
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    XSpace::read(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What JAX reads of a record.
fn expected(name: &str) -> Vec<Value> {
    let path = references().join("profile.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    json[name].as_array().expect("a list of planes").clone()
}

/// A value as the script writes it.
fn plain(space: &super::xplane::XPlane, stat: &XStat) -> Value {
    match stat.value.as_ref().expect("a value") {
        StatValue::Double(number) => Value::from(*number),
        StatValue::Uint64(number) => Value::from(*number),
        StatValue::Int64(number) => Value::from(*number),
        StatValue::Str(text) => Value::from(text.as_str()),
        StatValue::Bytes(bytes) => Value::from(String::from_utf8_lossy(bytes).into_owned()),
        StatValue::Ref(id) => Value::from(space.stat_metadata[&(*id as i64)].name.as_str()),
    }
}

/// Compares every plane, line, event and value; gives how many events and values there were.
fn compare(name: &str) -> (usize, usize) {
    let (space, expected) = (recorded(name), expected(name));
    assert_eq!(space.planes.len(), expected.len());
    let (mut events, mut values) = (0, 0);
    for (plane, expected) in space.planes.iter().zip(&expected) {
        assert_eq!(expected["name"], plane.name);
        let stats = Stats::of(plane);
        let lines = expected["lines"].as_array().expect("a list of lines");
        assert_eq!(lines.len(), plane.lines.len(), "{}", plane.name);
        for (line, expected) in plane.lines.iter().zip(lines) {
            assert_eq!(expected["name"], line.name);
            let list = expected["events"].as_array().expect("a list of events");
            assert_eq!(list.len(), line.events.len(), "{}", line.name);
            for (event, expected) in line.events.iter().zip(list) {
                assert_eq!(expected["name"], stats.name(event));
                let offset = match event.when {
                    Some(When::OffsetPs(offset)) => offset,
                    Some(When::NumOccurrences(_)) | None => 0,
                };
                // JAX adds in floating point, whose numbers of this size are 256 ns apart; lengths are in whole nanoseconds.
                let start = line.timestamp_ns as f64 + offset as f64 / 1e3;
                let found = expected["start_ns"].as_f64().expect("a number");
                assert!((found - start).abs() <= 512.0, "{found} and {start} in {}", line.name);
                assert_eq!(expected["duration_ns"].as_f64(), Some((event.duration_ps / 1000) as f64));
                let own = event.stats.iter();
                let common =
                    plane.event_metadata.get(&event.metadata_id).map_or(&[][..], |metadata| metadata.stats.as_slice());
                let found: Vec<Value> = own
                    .chain(common)
                    .map(|stat| {
                        let name =
                            plane.stat_metadata.get(&stat.metadata_id).map_or("", |metadata| metadata.name.as_str());
                        serde_json::json!([name, plain(plane, stat)])
                    })
                    .collect();
                let told = expected["stats"].as_array().expect("a list of values");
                // JAX tells an event's own values.
                assert_eq!(told[..], found[..told.len()], "{}", stats.name(event));
                events += 1;
                values += told.len();
            }
        }
    }
    (events, values)
}

#[test]
fn what_jax_records_of_a_cpu() {
    let (events, values) = compare("cpu");
    assert!(events > 20 && values > 20, "{events} events with {values} values");
    // What profiles of GPUs go by has the same names there.
    let space = recorded("cpu");
    let named = space.planes.iter().flat_map(|plane| {
        let stats = Stats::of(plane);
        let events = plane.lines.iter().flat_map(|line| &line.events);
        events.filter_map(move |event| Some((stats.text(event, "hlo_op")?, stats.text(event, "hlo_module")?)))
    });
    let named: Vec<(&str, &str)> = named.collect();
    assert!(named.iter().any(|(op, module)| op.contains("fusion") && *module == "jit_step"), "{named:?}");
}

#[test]
fn every_field_has_its_number() {
    assert_eq!(compare("fields").0, 3);
    let space = recorded("fields");
    assert_eq!((&space.errors[..], &space.hostnames[..]), (&["an error".to_owned()][..], &["here".to_owned()][..]));
    assert_eq!(space.warnings, ["a warning", "another"]);
    let [plane] = &space.planes[..] else { panic!("{} planes", space.planes.len()) };
    let [line] = &plane.lines[..] else { panic!("{} lines", plane.lines.len()) };
    assert_eq!((plane.id, line.id, line.duration_ps, line.display_id), (3, 7, 9_000_000, 70));
    assert_eq!((line.timestamp_ns, &*line.display_name), (1_767_225_600_000_000_001, "the seventh"));
    let [first, second, third] = &line.events[..] else { panic!("{} events", line.events.len()) };
    assert_eq!((first.when, first.duration_ps), (Some(When::OffsetPs(1500)), 2_000_250));
    assert_eq!((second.when, second.duration_ps), (Some(When::NumOccurrences(12)), 34));
    assert_eq!((third.when, third.duration_ps), (Some(When::OffsetPs(0)), 0));
    let values: Vec<_> = first.stats.iter().map(|stat| stat.value.clone().expect("a value")).collect();
    assert_eq!(
        values,
        [
            StatValue::Ref(20),
            StatValue::Str("train_step".to_owned()),
            StatValue::Uint64(u64::MAX),
            StatValue::Int64(-5),
            StatValue::Double(0.1),
            StatValue::Bytes(b"raw\0\x01".to_vec()),
        ]
    );
    let metadata = &plane.event_metadata[&1];
    assert_eq!((metadata.id, &*metadata.display_name, &metadata.metadata[..]), (1, "add", &[1, 2][..]));
    assert_eq!((&metadata.child_id[..], metadata.stats.len()), (&[2, 300][..], 1));
    assert_eq!(plane.stat_metadata[&1].description, "the instruction");
    assert_eq!(plane.stats.len(), 1);
    let stats = Stats::of(plane);
    assert_eq!(stats.text(first, "hlo_op"), Some("loop_add_fusion.2"));
    assert_eq!(stats.value(first, "registers"), Some(&StatValue::Int64(64)), "a value of all such events");
    assert_eq!((stats.text(first, "correlation_id"), stats.text(third, "hlo_op")), (None, None));
    // What is written again is read again; JAX writes nothing that is not here.
    let path = references().join("profile_fields.xplane.pb");
    let bytes = fs::read(path).expect("it was read before");
    let again = space.encode_to_vec();
    assert_eq!((again.len(), XSpace::read(&again)), (bytes.len(), Ok(space)));
}

#[test]
fn other_bytes_are_refused() {
    for bytes in [&[0u8][..], b"no record", &[0x0a, 5, 1]] {
        let error = XSpace::read(bytes).expect_err("refused");
        assert!(error.contains("no record of a profiler") && error.contains(&bytes.len().to_string()), "{error}");
    }
    assert_eq!(XSpace::read(&[]), Ok(XSpace::default()));
}

proptest! {
    #[test]
    fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = XSpace::read(&bytes);
    }

    #[test]
    fn reading_what_was_damaged_never_panics(at in any::<prop::sample::Index>(), byte: u8, end in any::<prop::sample::Index>()) {
        let mut bytes = fs::read(references().join("profile_fields.xplane.pb")).expect("it is there");
        let place = at.index(bytes.len());
        bytes[place] = byte;
        let module = super::kernels_tests::module();
        for part in [&bytes[..], &bytes[..end.index(bytes.len())]] {
            if let Ok(space) = XSpace::read(part) {
                let _ = super::timeline(&space, &module);
            }
        }
    }
}

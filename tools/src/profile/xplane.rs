//! What a plugin's profiler records: an `XSpace`, which holds a plane for each device, in a plane a line for each stream,
//! and in a line the events, each with a name, a time and named values.
//!
//! Source: `tsl/profiler/protobuf/xplane.proto` (openxla/xla), which numbers the fields.

use std::collections::{BTreeMap, HashMap, HashSet};

use prost::Message;

/// All that was recorded.
#[derive(Clone, PartialEq, prost::Message)]
pub struct XSpace {
    /// One for each device, and others for the host.
    #[prost(message, repeated, tag = "1")]
    pub planes: Vec<XPlane>,
    /// What went wrong while recording.
    #[prost(string, repeated, tag = "2")]
    pub errors: Vec<String>,
    /// What is missing in the record, such as events for which there was no room.
    #[prost(string, repeated, tag = "3")]
    pub warnings: Vec<String>,
    /// The machines.
    #[prost(string, repeated, tag = "4")]
    pub hostnames: Vec<String>,
}

/// What was recorded of a device, or of the host.
#[derive(Clone, PartialEq, prost::Message)]
pub struct XPlane {
    /// A number.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// `/device:GPU:0`.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Streams, or threads.
    #[prost(message, repeated, tag = "3")]
    pub lines: Vec<XLine>,
    /// What events have in common, by [`XEvent::metadata_id`].
    #[prost(btree_map = "int64, message", tag = "4")]
    pub event_metadata: BTreeMap<i64, XEventMetadata>,
    /// The names of values, by [`XStat::metadata_id`], and texts that many values are.
    #[prost(btree_map = "int64, message", tag = "5")]
    pub stat_metadata: BTreeMap<i64, XStatMetadata>,
    /// Values of the device itself.
    #[prost(message, repeated, tag = "6")]
    pub stats: Vec<XStat>,
}

/// Events that follow each other.
#[derive(Clone, PartialEq, prost::Message)]
pub struct XLine {
    /// A number.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// `Stream #7(Kernel)`.
    #[prost(string, tag = "2")]
    pub name: String,
    /// When it begins, in nanoseconds.
    #[prost(int64, tag = "3")]
    pub timestamp_ns: i64,
    /// The events.
    #[prost(message, repeated, tag = "4")]
    pub events: Vec<XEvent>,
    /// How long it is, in picoseconds.
    #[prost(int64, tag = "9")]
    pub duration_ps: i64,
    /// The row in which viewers show it.
    #[prost(int64, tag = "10")]
    pub display_id: i64,
    /// The name that viewers show.
    #[prost(string, tag = "11")]
    pub display_name: String,
}

/// Something that took time.
#[derive(Clone, PartialEq, prost::Message)]
pub struct XEvent {
    /// What it has in common with others.
    #[prost(int64, tag = "1")]
    pub metadata_id: i64,
    /// When it was.
    #[prost(oneof = "When", tags = "2, 5")]
    pub when: Option<When>,
    /// How long it took, in picoseconds.
    #[prost(int64, tag = "3")]
    pub duration_ps: i64,
    /// Named values.
    #[prost(message, repeated, tag = "4")]
    pub stats: Vec<XStat>,
}

/// When an event was.
#[derive(Clone, Copy, PartialEq, prost::Oneof)]
pub enum When {
    /// So many picoseconds after its line began.
    #[prost(int64, tag = "2")]
    OffsetPs(i64),
    /// So often, at times that are not told.
    #[prost(int64, tag = "5")]
    NumOccurrences(i64),
}

/// A named value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct XStat {
    /// Its name, by [`XPlane::stat_metadata`].
    #[prost(int64, tag = "1")]
    pub metadata_id: i64,
    /// The value.
    #[prost(oneof = "StatValue", tags = "2, 3, 4, 5, 6, 7")]
    pub value: Option<StatValue>,
}

/// The value of an [`XStat`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum StatValue {
    /// A number.
    #[prost(double, tag = "2")]
    Double(f64),
    /// A number.
    #[prost(uint64, tag = "3")]
    Uint64(u64),
    /// A number.
    #[prost(int64, tag = "4")]
    Int64(i64),
    /// A text.
    #[prost(string, tag = "5")]
    Str(String),
    /// Bytes.
    #[prost(bytes = "vec", tag = "6")]
    Bytes(Vec<u8>),
    /// A text that stands among the names of [`XPlane::stat_metadata`].
    #[prost(uint64, tag = "7")]
    Ref(u64),
}

/// What events have in common.
#[derive(Clone, PartialEq, prost::Message)]
pub struct XEventMetadata {
    /// Its own key.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// The name, of a kernel the one that it has in the machine code.
    #[prost(string, tag = "2")]
    pub name: String,
    /// More, in a form of its own.
    #[prost(bytes = "vec", tag = "3")]
    pub metadata: Vec<u8>,
    /// The name that viewers show.
    #[prost(string, tag = "4")]
    pub display_name: String,
    /// Values that all these events have.
    #[prost(message, repeated, tag = "5")]
    pub stats: Vec<XStat>,
    /// Those of events inside of these.
    #[prost(int64, repeated, tag = "6")]
    pub child_id: Vec<i64>,
}

/// A name, or a text.
#[derive(Clone, PartialEq, prost::Message)]
pub struct XStatMetadata {
    /// Its own key.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// The name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// More about it.
    #[prost(string, tag = "3")]
    pub description: String,
}

impl XSpace {
    /// Reads what a profiler wrote, or the file that JAX and TensorFlow make of it (`*.xplane.pb`).
    ///
    /// # Errors
    /// Where it is no such message.
    pub fn read(bytes: &[u8]) -> Result<XSpace, String> {
        let no_record = |error| format!("these {} bytes are no record of a profiler (an XSpace): {error}", bytes.len());
        XSpace::decode(bytes).map_err(no_record)
    }
}

/// The named values of a plane's events.
pub struct Stats<'p> {
    plane: &'p XPlane,
    /// Numbers by name; a plane may give a name twice.
    ids: HashMap<&'p str, HashSet<i64>>,
}

impl<'p> Stats<'p> {
    /// Those of a plane.
    pub fn of(plane: &'p XPlane) -> Stats<'p> {
        let mut ids: HashMap<&str, HashSet<i64>> = HashMap::new();
        for (&id, metadata) in &plane.stat_metadata {
            ids.entry(&metadata.name).or_default().insert(id);
        }
        Stats { plane, ids }
    }

    /// The value of this name: the event's own, or that of all such events.
    pub fn value(&self, event: &'p XEvent, name: &str) -> Option<&'p StatValue> {
        let ids = self.ids.get(name)?;
        let common =
            self.plane.event_metadata.get(&event.metadata_id).map_or(&[][..], |metadata| metadata.stats.as_slice());
        event.stats.iter().chain(common).find(|stat| ids.contains(&stat.metadata_id))?.value.as_ref()
    }

    /// The same where it is a text.
    pub fn text(&self, event: &'p XEvent, name: &str) -> Option<&'p str> {
        match self.value(event, name)? {
            StatValue::Str(text) => Some(text),
            StatValue::Ref(id) => Some(&self.plane.stat_metadata.get(&i64::try_from(*id).ok()?)?.name),
            StatValue::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            StatValue::Double(_) | StatValue::Uint64(_) | StatValue::Int64(_) => None,
        }
    }

    /// The name of an event.
    pub fn name(&self, event: &XEvent) -> &'p str {
        self.plane.event_metadata.get(&event.metadata_id).map_or("", |metadata| &metadata.name)
    }
}

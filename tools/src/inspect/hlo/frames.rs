//! The tables in front of a module that say where its instructions come from: of programs for GPUs, whose metadata only have
//! the number of a stack frame.

use std::collections::HashMap;

/// Files and lines of stack frames.
#[derive(Default)]
pub(super) struct Frames {
    section: String,
    files: HashMap<u32, String>,
    /// Of a location the number of its file, and the line.
    locations: HashMap<u32, (u32, u32)>,
    /// Of a frame the number of its location.
    frames: HashMap<u32, u32>,
}

impl Frames {
    /// Takes a line that stands before the first computation; others are passed over.
    pub(super) fn read(&mut self, line: &str) {
        let Some((number, rest)) = line.split_once(' ') else {
            line.clone_into(&mut self.section);
            return;
        };
        let Ok(number) = number.parse::<u32>() else { return };
        let field = |key: &str| -> Option<u32> {
            let (_, rest) = rest.split_once(&format!("{key}="))?;
            rest.split([' ', '}']).next()?.parse().ok()
        };
        match &*self.section {
            "FileNames" => _ = self.files.insert(number, rest.trim_matches('"').to_owned()),
            "FileLocations" => {
                let place = field("file_name_id").zip(field(" line"));
                self.locations.extend(place.map(|place| (number, place)));
            }
            "StackFrames" => self.frames.extend(field("file_location_id").map(|location| (number, location))),
            _ => {}
        }
    }

    /// The file and the line of a frame.
    pub(super) fn place(&self, frame: u32) -> Option<(&str, u32)> {
        let (file, line) = self.locations.get(self.frames.get(&frame)?)?;
        Some((self.files.get(file)?, *line))
    }
}

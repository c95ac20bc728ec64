//! Reading `[[data.mixture]]`.

use std::path::PathBuf;

use super::section::{POSITIVE, Section};
use super::settings::SourceConfig;
use super::source::Problem;
use super::tree::Kind;

/// The sources of a mixture; none when there is no mixture.
pub(super) fn read_mixture(section: &Section<'_>, find_all: &dyn Fn(Vec<&str>) -> Vec<PathBuf>) -> Vec<SourceConfig> {
    let Some(node) = section.node("mixture") else { return Vec::new() };
    let expected = "tables with `files` and `weight`, each under [[data.mixture]]";
    let Kind::Array(items) = &node.kind else {
        section.wrong_type("mixture", node, expected);
        return Vec::new();
    };
    let mut sources: Vec<SourceConfig> = Vec::new();
    for (number, item) in (1..).zip(items) {
        let Kind::Table(table) = &item.kind else {
            section.wrong_type("mixture", item, expected);
            continue;
        };
        let source = section.inner("data.mixture", table, item.place);
        source.present("files");
        let name = source.string("name", "a name in quotes").map_or_else(|| number.to_string(), str::to_owned);
        if sources.iter().any(|other| other.name == name) {
            let message = format!("two sources have the name {name:?}");
            source.problem("name", Problem::new(source.place("name"), message));
        }
        let (files, weight) = (find_all(source.paths("files")), source.number("weight", &POSITIVE));
        source.finish(|key| (key == "train").then(|| "the files of a source are its `files`".to_owned()));
        sources.push(SourceConfig { name, files, weight });
    }
    section.require(&["mixture"], !sources.is_empty(), || "`mixture` is an empty list: no source to read".to_owned());
    let total: f64 = sources.iter().map(|source| source.weight).sum();
    for (source, item) in sources.iter().zip(items) {
        if source.weight / total < SMALLEST_SHARE {
            let message = format!("source {:?} has less than a millionth of all weights", source.name);
            section.problem("mixture", Problem::new(item.place, message).help("leave it out"));
        }
    }
    sources
}

/// A smaller share is surely a slip; and shares are kept in 32 bits.
const SMALLEST_SHARE: f64 = 1e-6;

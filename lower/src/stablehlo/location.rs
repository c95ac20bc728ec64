//! Locations of ops, as aliases that stand at the end of the module.

use std::collections::HashMap;
use std::fmt::Write;

use lmc_graph::Location;

use super::syntax;

/// The locations used so far, each with the number of its alias.
#[derive(Debug, Default)]
pub(super) struct Locations {
    numbers: HashMap<Location, usize>,
    definitions: String,
}

impl Locations {
    /// ` loc(#loc3)`, to stand behind an op.
    pub(super) fn suffix(&mut self, location: &Location) -> String {
        let number = match self.numbers.get(location) {
            Some(&number) => number,
            None => {
                let number = self.numbers.len() + 1;
                self.numbers.insert(location.clone(), number);
                writeln!(self.definitions, "#loc{number} = loc({})", spell(location)).expect("writing to a string");
                number
            }
        };
        format!(" loc(#loc{number})")
    }

    /// The definitions of the aliases, a line each.
    pub(super) fn definitions(&self) -> &str {
        &self.definitions
    }
}

/// The scope as a name around file and line; either may be missing.
fn spell(location: &Location) -> String {
    let Location { scope, file, line } = location;
    // The column is not known: 0.
    let place = || format!("{}:{line}:0", syntax::string(file));
    match (&**scope, &**file) {
        ("", "") => "unknown".to_string(),
        ("", _) => place(),
        (scope, "") => syntax::string(scope),
        (scope, _) => format!("{}({})", syntax::string(scope), place()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling() {
        let location = |scope: &str, file: &str, line| Location { scope: scope.into(), file: file.into(), line };
        let cases = [
            (location("a.b", "src/model.rs", 12), r#"loc("a.b"("src/model.rs":12:0))"#),
            (location("", "src/model.rs", 12), r#"loc("src/model.rs":12:0)"#),
            (location("a", "", 0), r#"loc("a")"#),
            (Location::unknown(), "loc(unknown)"),
        ];
        let mut locations = Locations::default();
        let mut expected = String::new();
        for (i, (location, spelled)) in cases.iter().enumerate() {
            assert_eq!(locations.suffix(location), format!(" loc(#loc{})", i + 1));
            expected += &format!("#loc{} = {spelled}\n", i + 1);
        }
        assert_eq!(locations.suffix(&cases[1].0), " loc(#loc2)");
        assert_eq!(locations.definitions(), expected);
    }
}

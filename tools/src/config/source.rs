//! Where a setting was written, and how a problem with it is shown: file, line, column, the line, a caret.

use std::fmt::Write as _;

/// The texts that make up a configuration: the file, then one for each `--set`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    sources: Vec<Source>,
}

#[derive(Clone, Debug)]
struct Source {
    name: String,
    text: String,
    /// A `--set` argument, which is one line and needs no line number.
    argument: bool,
}

/// A stretch of bytes of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) source: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    /// Where; `None` when nothing that was written is to blame, such as a missing section.
    pub(crate) place: Option<Place>,
    /// What was expected and what was found.
    pub(crate) message: String,
    /// What to do, a line each.
    pub(crate) help: Vec<String>,
}

impl Problem {
    pub(crate) fn new(place: impl Into<Option<Place>>, message: impl Into<String>) -> Problem {
        Problem { place: place.into(), message: message.into(), help: Vec::new() }
    }

    pub(crate) fn help(mut self, line: impl Into<String>) -> Problem {
        self.help.push(line.into());
        self
    }
}

impl Sources {
    pub(crate) fn add_file(&mut self, name: impl Into<String>, text: impl Into<String>) -> usize {
        self.sources.push(Source { name: name.into(), text: text.into(), argument: false });
        self.sources.len() - 1
    }

    pub(crate) fn add_argument(&mut self, text: impl Into<String>) -> usize {
        self.sources.push(Source { name: "--set".to_owned(), text: text.into(), argument: true });
        self.sources.len() - 1
    }

    /// The name of the configuration as a whole: that of its file.
    pub(crate) fn name(&self) -> &str {
        self.sources.first().map_or("the configuration", |source| &source.name)
    }

    /// One message for all problems, in the order in which they stand in the sources.
    pub(crate) fn render(&self, mut problems: Vec<Problem>) -> String {
        problems.sort_by_key(|problem| problem.place.map_or((0, 0), |place| (place.source, place.start)));
        let mut shown: Vec<String> = problems.iter().map(|problem| self.render_one(problem)).collect();
        shown.dedup();
        match shown.len() {
            1 => shown.remove(0),
            count => format!("{}: {count} problems\n\nerror: {}", self.name(), shown.join("\n\nerror: ")),
        }
    }

    fn render_one(&self, problem: &Problem) -> String {
        let mut out = problem.message.clone();
        match problem.place {
            None => _ = write!(out, "\n --> {}", self.name()),
            Some(place) => self.render_place(&mut out, place),
        }
        let indent = if problem.place.is_some() { "  " } else { " " };
        problem.help.iter().for_each(|line| _ = write!(out, "\n{indent}= {line}"));
        out
    }

    fn render_place(&self, out: &mut String, place: Place) {
        let Some(source) = self.sources.get(place.source) else { return };
        let text = &source.text;
        let start = floor_char_boundary(text, place.start);
        let end = floor_char_boundary(text, place.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let column = text[line_start..start].chars().count();
        let width = text[start..end.min(line_end)].chars().count().max(1);
        // Control characters would move the caret, or the terminal.
        let line: String =
            text[line_start..line_end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        let line = line.trim_end();
        let (number, gutter) = if source.argument {
            _ = write!(out, "\n --> {} '{}', column {}", source.name, line, column + 1);
            (String::new(), 1)
        } else {
            let number = text[..line_start].matches('\n').count() + 1;
            _ = write!(out, "\n --> {}:{number}:{}", source.name, column + 1);
            (number.to_string(), number.to_string().len())
        };
        // A long line is cut around the place, so that a message stays readable.
        let (line, column) = excerpt(line, column);
        let caret = format!("{}{}", " ".repeat(column), "^".repeat(width.min(LONGEST_LINE)));
        _ = write!(out, "\n{0:gutter$} |\n{number} | {line}\n{0:gutter$} | {caret}", "");
    }
}

/// Characters of a source line that are shown.
const LONGEST_LINE: usize = 160;

fn excerpt(line: &str, column: usize) -> (String, usize) {
    if line.chars().count() <= LONGEST_LINE {
        return (line.to_owned(), column);
    }
    let skip = column.saturating_sub(LONGEST_LINE / 2);
    (line.chars().skip(skip).take(LONGEST_LINE).collect(), column - skip)
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Sources {
        let mut sources = Sources::default();
        sources.add_file("a.toml", "x = 1\nnäme = [2,\n 3]\n");
        sources.add_argument("train.steps=x");
        sources
    }

    fn check(place: Option<Place>, expected: &str) {
        assert_eq!(sources().render(vec![Problem::new(place, "wrong").help("do this")]), expected);
    }

    #[test]
    fn places_are_shown_with_line_column_and_caret() {
        check(None, "wrong\n --> a.toml\n = do this");
        let key = Place { source: 0, start: 6, end: 11 };
        check(Some(key), "wrong\n --> a.toml:2:1\n  |\n2 | näme = [2,\n  | ^^^^\n  = do this");
        let over_lines = Place { source: 0, start: 14, end: 21 };
        check(Some(over_lines), "wrong\n --> a.toml:2:8\n  |\n2 | näme = [2,\n  |        ^^^\n  = do this");
        let argument = Place { source: 1, start: 12, end: 13 };
        check(
            Some(argument),
            "wrong\n --> --set 'train.steps=x', column 13\n  |\n | train.steps=x\n  |             ^\n  = do this",
        );
    }

    #[test]
    fn several_problems_are_sorted_and_counted() {
        let at = |start| Place { source: 0, start, end: start + 1 };
        let text = sources().render(vec![Problem::new(at(6), "second"), Problem::new(at(0), "first")]);
        assert!(text.starts_with("a.toml: 2 problems\n\nerror: first\n"), "{text}");
    }
}

//! Rules about the sources themselves: what the compiler does not check and a reviewer should not have to.
//!
//! Each rule is a function from sources to complaints, so that its test can show that it complains.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use lmc_graph::Op;
use lmc_tests::constraints::{self, Constraints};
use lmc_tests::source::{Source, sources, workspace};

/// The crates, and the crates each may depend on.
const ARROWS: [(&str, &[&str]); 7] = [
    ("graph", &[]),
    ("autodiff", &["lmc-graph"]),
    ("lower", &["lmc-graph"]),
    ("runtime", &["lmc-graph"]),
    ("models", &["lmc-graph", "lmc-autodiff"]),
    ("tools", &["lmc-graph", "lmc-autodiff", "lmc-lower", "lmc-runtime", "lmc-models"]),
    ("tests", &["lmc-graph", "lmc-autodiff", "lmc-lower", "lmc-runtime", "lmc-models", "lmc"]),
];

/// The only places with `unsafe` code: the C interfaces of PJRT and XLA's FFI, the kernels registered there, and the
/// stand-in for CUDA's driver.
const UNSAFE_PLACES: [&str; 3] = ["runtime/src/pjrt/", "runtime/src/kernels/", "runtime/driver-stub/"];

/// The themes of ops; every stage has one file of rules for each.
const THEMES: [&str; 8] =
    ["attention.rs", "contract.rs", "control.rs", "elementwise.rs", "index.rs", "random.rs", "reduce.rs", "shape.rs"];

/// Fails with all complaints at once.
#[track_caller]
fn expect_none(rule: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "{rule}\n  {}", complaints.join("\n  "));
}

/// The Rust sources of all crates.
fn rust_sources() -> Vec<Source> {
    sources("").into_iter().filter(|source| source.path.ends_with(".rs")).collect()
}

fn rust(path: &str, text: &str) -> Source {
    Source { path: path.to_string(), text: text.to_string() }
}

/// One complaint for each line of code that breaks a rule; comments and strings are not looked at.
fn code_lines<'a>(
    sources: impl IntoIterator<Item = &'a Source>,
    broken: impl Fn(&Source, &str) -> Option<String>,
) -> Vec<String> {
    let code = sources.into_iter().map(|source| rust(&source.path, &code(&source.text).join("\n")));
    lines(&code.collect::<Vec<_>>(), broken)
}

/// One complaint for each line that breaks a rule.
fn lines<'a>(
    sources: impl IntoIterator<Item = &'a Source>,
    broken: impl Fn(&Source, &str) -> Option<String>,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        for (i, line) in source.text.lines().enumerate() {
            if let Some(reason) = broken(source, line) {
                complaints.push(format!("{}:{}: {reason}", source.path, i + 1));
            }
        }
    }
    complaints
}

fn manifest(folder: &str) -> toml::Table {
    let path = workspace().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The crates of the workspace that a manifest depends on, in any way.
fn own_dependencies(manifest: &toml::Table) -> Vec<String> {
    ["dependencies", "dev-dependencies", "build-dependencies"]
        .iter()
        .filter_map(|kind| manifest.get(*kind)?.as_table())
        .flat_map(|table| table.keys())
        .filter(|name| *name == "lmc" || name.starts_with("lmc-"))
        .cloned()
        .collect()
}

fn forbidden_arrows(folder: &str, allowed: &[&str], manifest: &toml::Table) -> Vec<String> {
    let own = own_dependencies(manifest);
    let forbidden = own.iter().filter(|name| !allowed.contains(&name.as_str()));
    forbidden.map(|name| format!("{folder} must not depend on {name}")).collect()
}

#[test]
fn arrows_between_crates() {
    let root = manifest("");
    let members: BTreeSet<&str> = root["workspace"]["members"]
        .as_array()
        .expect("members are a list")
        .iter()
        .filter_map(toml::Value::as_str)
        .collect();
    assert_eq!(members, ARROWS.map(|(folder, _)| folder).into(), "each crate has its arrows in this file");
    let complaints: Vec<String> =
        ARROWS.iter().flat_map(|(folder, allowed)| forbidden_arrows(folder, allowed, &manifest(folder))).collect();
    expect_none("crates depend on each other in one direction only", &complaints);

    let wrong: toml::Table = "[dev-dependencies]\nlmc-lower.workspace = true".parse().expect("is TOML");
    assert_eq!(forbidden_arrows("autodiff", &["lmc-graph"], &wrong), ["autodiff must not depend on lmc-lower"]);
}

#[test]
fn lints_are_the_workspace_s() {
    let complaints: Vec<String> = ARROWS
        .iter()
        .filter(|(folder, _)| {
            let manifest = manifest(folder);
            let shared = manifest.get("lints").and_then(|lints| lints.get("workspace"));
            shared.and_then(toml::Value::as_bool) != Some(true)
        })
        .map(|(folder, _)| format!("{folder}/Cargo.toml: expected `[lints]` with `workspace = true`"))
        .collect();
    expect_none("lints are in one place", &complaints);
}

/// The lines of the doc comment at the top of a file, without their marks.
fn front_page(text: &str) -> Vec<&str> {
    text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect()
}

/// What is missing from a crate's front page.
fn front_page_gaps(source: &Source) -> Vec<String> {
    let page = front_page(&source.text);
    let has = |title: &str| page.iter().any(|line| line.starts_with('#') && line.contains(title));
    let mut gaps = Vec::new();
    if page.first().is_none_or(|line| line.is_empty()) {
        gaps.push(format!("{}: the crate's documentation does not start with its purpose", source.path));
    }
    for title in ["Invariants", "Reading order"] {
        if !has(title) {
            gaps.push(format!("{}: no section `# {title}` in the crate's documentation", source.path));
        }
    }
    gaps
}

#[test]
fn crates_have_a_front_page() {
    let roots: Vec<String> = ARROWS.iter().map(|(folder, _)| format!("{folder}/src/lib.rs")).collect();
    let complaints: Vec<String> =
        rust_sources().iter().filter(|source| roots.contains(&source.path)).flat_map(front_page_gaps).collect();
    expect_none("a crate's front page has purpose, invariants and reading order", &complaints);

    assert_eq!(front_page_gaps(&rust("x", "//! Purpose.\n//!\n//! # Invariants\n//!\n//! # Reading order\n")).len(), 0);
    assert_eq!(front_page_gaps(&rust("x", "use x;\n//! # Invariants\n")).len(), 3);
}

#[test]
fn files_say_what_is_in_them() {
    let silent = |source: &&Source| front_page(&source.text).first().is_none_or(|line| line.is_empty());
    let complaints: Vec<String> =
        rust_sources().iter().filter(silent).map(|source| format!("{}: no `//!` at the top", source.path)).collect();
    expect_none("each file starts with a sentence that says what is here", &complaints);
}

#[test]
fn stages_have_the_same_files_of_rules() {
    let all = rust_sources();
    let mut complaints = Vec::new();
    for folder in ["graph/src/ops", "autodiff/src/rules", "lower/src/stablehlo", "lower/src/wasm"] {
        let found: BTreeSet<&str> = all
            .iter()
            .filter(|source| source.path.starts_with(folder))
            .map(|source| &source.path[folder.len() + 1..])
            .collect();
        for theme in THEMES.iter().filter(|theme| !found.contains(*theme)) {
            complaints.push(format!("{folder}/{theme} is missing"));
        }
    }
    // Of the stages after the first only the op files may differ from the themes by helpers of their own, so that "where
    // is the derivative of this op?" has one answer.
    for source in all.iter().filter(|source| source.path.starts_with("graph/src/ops/")) {
        if source.file_name() != "mod.rs" && !THEMES.contains(&source.file_name()) {
            complaints.push(format!("{}: a theme that this test does not know", source.path));
        }
    }
    expect_none("the rules of an op are in files of one name", &complaints);
}

/// The code of each line: without comments and the insides of strings.
fn code(text: &str) -> Vec<String> {
    /// What the characters at hand belong to.
    #[derive(Clone, Copy, PartialEq)]
    enum In {
        Code,
        Comment,
        String,
        /// A raw string with so many `#`.
        Raw(usize),
    }
    let mut lines = vec![String::new()];
    let mut at = In::Code;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let mut length = c.len_utf8();
        let raw = rest.strip_prefix('r').map(|rest| rest.len() - rest.trim_start_matches('#').len());
        match at {
            In::Code if rest.starts_with("//") => at = In::Comment,
            In::Code if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") => {
                length = rest[1..].find('\'').unwrap_or(0) + 2
            }
            In::Code if c == '"' => at = In::String,
            In::Code if raw.is_some_and(|hashes| rest[1 + hashes..].starts_with('"')) => {
                let hashes = raw.unwrap_or(0);
                at = In::Raw(hashes);
                length = 2 + hashes;
            }
            In::Comment if c == '\n' => at = In::Code,
            In::String if c == '\\' => length += rest[1..].chars().next().map_or(0, char::len_utf8),
            In::String if c == '"' => at = In::Code,
            In::Raw(hashes) if rest.starts_with(&format!("\"{}", "#".repeat(hashes))) => {
                at = In::Code;
                length = 1 + hashes;
            }
            In::Code if c != '\n' => lines.last_mut().expect("there is a line").push(c),
            In::Code | In::Comment | In::String | In::Raw(_) => {}
        }
        for _ in rest[..length].matches('\n') {
            lines.push(String::new());
        }
        rest = &rest[length..];
    }
    lines
}

#[test]
fn code_is_without_comments_and_strings() {
    let check = |text: &str, expected: &[&str]| assert_eq!(code(text), expected, "{text}");
    check("a // b\nc", &["a ", "c"]);
    check("f(\"a // \\\" b\", c)", &["f(, c)"]);
    check("x = \"a\n  b\"; y", &["x = ", "; y"]);
    check("x = r#\"a \" b\"#; y", &["x = ; y"]);
    check("x = '\"'; y // z", &["x = ; y "]);
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part))
}

fn unsafe_code<'a>(sources: impl IntoIterator<Item = &'a Source>) -> Vec<String> {
    code_lines(sources, |source, code| {
        let found = has_word(code, "unsafe") || code.contains("allow(unsafe_code");
        (found && !UNSAFE_PLACES.iter().any(|place| source.path.starts_with(place)))
            .then(|| "`unsafe` outside of its files".to_string())
    })
}

#[test]
fn unsafe_code_is_in_its_files() {
    expect_none("unsafe code is in few, named files", &unsafe_code(&rust_sources()));

    assert_eq!(unsafe_code(&[rust("graph/src/x.rs", "fn f() { unsafe { g() } } // SAFETY: none")]).len(), 1);
    assert_eq!(unsafe_code(&[rust("graph/src/x.rs", "// unsafe\nlet s = \"unsafe\";")]).len(), 0);
    assert_eq!(unsafe_code(&[rust("runtime/src/kernels/simd.rs", "unsafe {}")]).len(), 0);
}

/// What must not be in code, and why.
const FORBIDDEN_CODE: [(&str, &str); 6] = [
    ("todo!", "finish it, or open an issue"),
    ("unimplemented!", "finish it, or return an error"),
    ("#[ignore", "a test runs or does not exist"),
    ("should_panic", "catch the panic and check its message"),
    ("clippy::wildcard_enum_match_arm", "a routing match lists every variant"),
    ("allow(warnings", "warnings are mended"),
];

fn forbidden_code<'a>(sources: impl IntoIterator<Item = &'a Source>) -> Vec<String> {
    code_lines(sources, |_, code| {
        let found = FORBIDDEN_CODE.iter().find(|(text, _)| code.contains(text));
        found.map(|(text, reason)| format!("`{text}`: {reason}"))
    })
}

#[test]
fn nothing_is_left_undone() {
    expect_none("code is finished and tests run", &forbidden_code(&rust_sources()));

    let examples =
        ["    #[ignore]", "todo!()", "#![allow(clippy::wildcard_enum_match_arm)]", "#[should_panic(expected = \"x\")]"];
    for example in examples {
        assert_eq!(forbidden_code(&[rust("x.rs", example)]).len(), 1, "{example}");
    }
}

#[test]
fn files_are_named_for_their_theme() {
    const VAGUE: [&str; 6] = ["utils", "util", "misc", "helpers", "helper", "common"];
    let vague = |source: &&Source| source.path.split(['/', '.']).any(|part| VAGUE.contains(&part));
    let complaints: Vec<String> =
        rust_sources().iter().filter(vague).map(|source| format!("{}: name the theme", source.path)).collect();
    expect_none("no file is named for holding anything", &complaints);
}

/// Folders of one machine, and hosts of package registries: what would tie the sources to where they were written.
/// Each is split, so that this file does not complain of itself.
const PLACES: [(&str, &str); 9] = [
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("/ho", "me/"),
    ("/Use", "rs/"),
    ("pyp", "i.org"),
    ("pythonho", "sted.org"),
    ("crat", "es.io"),
    ("npm", "js.org"),
    ("conda.", "anaconda.org"),
];

fn places<'a>(sources: impl IntoIterator<Item = &'a Source>) -> Vec<String> {
    lines(sources, |_, line| {
        let place = PLACES.map(|(a, b)| format!("{a}{b}")).into_iter().find(|place| line.contains(place));
        place.map(|place| format!("names the place `{place}`"))
    })
}

#[test]
fn sources_do_not_depend_on_a_place() {
    expect_none("no path of one machine, no registry's host", &places(&sources("")));

    let (a, b) = PLACES[0];
    assert_eq!(places(&[rust("x.rs", &format!("let path = \"{a}{b}main\";"))]).len(), 1);
}

/// Of comments, and of the Python scripts. Code is rustfmt's business (`max_width` in `rustfmt.toml`), which leaves comments
/// alone; hence a little more than its width.
const MAX_WIDTH: usize = 125;

fn untidy_lines<'a>(sources: impl IntoIterator<Item = &'a Source>) -> Vec<String> {
    lines(sources, |source, line| {
        if line.ends_with([' ', '\t', '\r']) {
            return Some("white space at the end of the line".to_string());
        }
        if line.contains('\t') && source.path.ends_with(".rs") {
            return Some("a tab".to_string());
        }
        let width = line.chars().count();
        let is_comment = source.path.ends_with(".rs") && line.trim_start().starts_with("//");
        let limited = is_comment || source.path.ends_with(".py");
        (limited && width > MAX_WIDTH).then(|| format!("{width} characters, more than {MAX_WIDTH}"))
    })
}

#[test]
fn lines_are_tidy() {
    let all = sources("");
    let mut complaints = untidy_lines(&all);
    for source in all.iter().filter(|source| !source.text.is_empty()) {
        if !source.text.ends_with('\n') || source.text.ends_with("\n\n") {
            complaints.push(format!("{}: expected one line break at the end", source.path));
        }
    }
    expect_none("width and white space", &complaints);

    assert_eq!(untidy_lines(&[rust("x.rs", "a \n\tb\n")]).len(), 2);
    assert_eq!(
        untidy_lines(&[rust("x.rs", &format!("// {}", "x".repeat(MAX_WIDTH))), rust("x.md", &"x".repeat(500))]).len(),
        1
    );
}

/// The names of filetest functions that break a constraint: `add_c1`, `add_i1`.
fn tested_labels() -> BTreeMap<String, BTreeSet<String>> {
    let mut tested: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources("tests/filetests") {
        for name in lmc_tests::filetest::function_names(&source.text) {
            if let Some((op, label)) = constraints::broken_by(&name) {
                tested.entry(op).or_default().insert(label);
            }
        }
    }
    tested
}

/// Ops whose family's `I1`, on element types, cannot be broken: they take every type.
const TAKE_EVERYTHING: [&str; 4] = ["add", "multiply", "maximum", "minimum"];

/// What is wrong about an op's labels: in the code and not in the documentation, or documented without a test.
fn label_gaps(op: &str, found: &Constraints, tested: &BTreeSet<String>) -> Vec<String> {
    let Constraints { documented, checked } = found;
    let undocumented = checked.difference(documented);
    let untested = documented.difference(tested).filter(|label| *label != "I1" || !TAKE_EVERYTHING.contains(&op));
    let unknown = tested.difference(documented).filter(|label| *label != "I0");
    undocumented
        .map(|label| format!("{op} ({label}): checked, but not in the op's documentation"))
        .chain(untested.map(|label| format!("{op} ({label}): no filetest `@{op}_{}`", label.to_lowercase())))
        .chain(unknown.map(|label| format!("{op} ({label}): a filetest, but not in the op's documentation")))
        .collect()
}

#[test]
fn constraint_labels_agree() {
    let ops = sources("graph/src/ops");
    let (tested, none) = (tested_labels(), BTreeSet::new());
    let constraints = constraints::of_ops(&ops);
    let complaints: Vec<String> = Op::names()
        .into_iter()
        .flat_map(|op| match constraints.get(op) {
            Some(found) => label_gaps(op, found, tested.get(op).unwrap_or(&none)),
            None => vec![format!("{op}: no documented op of this name in graph/src/ops")],
        })
        .collect();
    expect_none("labels in documentation, code and tests are the same", &complaints);
    let unknown: Vec<&String> = tested.keys().filter(|op| !Op::names().contains(&op.as_str())).collect();
    assert!(unknown.is_empty(), "tests of constraints of unknown ops: {unknown:?}");

    let labels = |labels: &[&str]| labels.iter().map(ToString::to_string).collect();
    let found = Constraints { documented: labels(&["C1", "C2"]), checked: labels(&["C2", "C3"]) };
    assert_eq!(label_gaps("x", &found, &labels(&["C2", "C4"])).len(), 3);
    assert_eq!(label_gaps("x", &found, &labels(&["C1", "C2"])).len(), 1);
}

//! Runs the filetests in `filetests/`: one test a file, filtered by name as any other test; and one for what they cover.
//!
//! `BLESS=1 cargo test -p lmc-tests --test filetests` writes what is computed into the files; read the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::ExitCode;
use std::sync::Mutex;

use libtest_mimic::{Arguments, Failed, Trial};
use lmc_graph::Op;
use lmc_tests::filetest::{Done, FileTest, Kind, Outcome, run};
use lmc_tests::source::{Source, sources, workspace};

/// What all files together did: how often each kind of test did what.
static COUNTS: Mutex<BTreeMap<(Kind, Done), usize>> = Mutex::new(BTreeMap::new());

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let bless = std::env::var_os("BLESS").is_some_and(|value| value != "0");
    let files: Vec<Source> =
        sources("tests/filetests").into_iter().filter(|source| source.path.ends_with(".lmir")).collect();
    let mut trials: Vec<Trial> = Vec::new();
    for source in &files {
        let name = source.path.trim_start_matches("tests/filetests/").to_string();
        let source = source.clone();
        trials.push(Trial::test(name, move || run_file(&source, bless)));
    }
    trials.push(Trial::test("coverage", move || coverage(&files)));
    let conclusion = libtest_mimic::run(&arguments, trials);
    print_counts();
    conclusion.exit_code()
}

fn run_file(source: &Source, bless: bool) -> Result<(), Failed> {
    let test = FileTest::parse(&source.path, &source.text)?;
    let mut outcome = run(&test);
    let mut counts = COUNTS.lock().map_err(|error| error.to_string())?;
    for &(_, kind, done) in &outcome.done {
        *counts.entry((kind, done)).or_default() += 1;
    }
    drop(counts);
    if bless && outcome.blessed != source.text {
        fs::write(workspace().join(&source.path), &outcome.blessed)
            .map_err(|error| format!("{}: {error}", source.path))?;
        // Its last failure is that the file says something else.
        outcome.failures.pop();
    }
    if outcome.failures.is_empty() { Ok(()) } else { Err(outcome.failures.join("\n\n").into()) }
}

/// A line for each kind of test: what ran, and what did not.
fn print_counts() {
    let Ok(counts) = COUNTS.lock() else { return };
    let count = |kind: Kind, done: Done| counts.get(&(kind, done)).copied().unwrap_or(0);
    println!("functions by kind of test:");
    for kind in Kind::ALL {
        println!(
            "  {kind:<6} {:>5} checked, {:>4} with nothing to check, {:>3} not checked as their file asks",
            count(kind, Done::Checked),
            count(kind, Done::Nothing),
            count(kind, Done::NotChecked)
        );
    }
}

/// Every op has a file of its name that tests it in every way.
fn coverage(files: &[Source]) -> Result<(), Failed> {
    let mut complaints = Vec::new();
    for op in Op::names() {
        let name = format!("/{op}.lmir");
        let Some(source) = files.iter().find(|source| source.path.ends_with(&name)) else {
            complaints.push(format!("{op}: no file {name} in tests/filetests"));
            continue;
        };
        let mut test = FileTest::parse(&source.path, &source.text)?;
        // Few ops have a form of their own on a GPU.
        let asked = Kind::ALL.into_iter().filter(|&kind| kind != Kind::Cuda);
        for kind in asked.filter(|kind| !test.kinds.contains(kind)) {
            complaints.push(format!("{op}: {} has no test of kind `{kind}`", source.path));
        }
        // Kinds that a file names and does nothing for would not be a test. What each does is seen without the plugin.
        test.kinds = vec![Kind::Eval, Kind::Grad];
        complaints.extend(untested(op, &run(&test)));
    }
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n").into()) }
}

/// Ops of which no function has a derivative that differences can check: bits have none.
const WITHOUT_DIFFERENCES: [&str; 1] = ["bitcast_convert"];

/// The ways in which a file does not test the op it is for.
fn untested(op: &str, outcome: &Outcome) -> Vec<String> {
    let with_op: BTreeSet<&str> =
        outcome.ops.iter().filter(|(_, name)| *name == op).map(|(function, _)| function.as_str()).collect();
    let count = |kind: Kind, done: Done| {
        let own = |function: &String| with_op.contains(function.as_str());
        outcome.done.iter().filter(|(function, k, d)| own(function) && *k == kind && *d == done).count()
    };
    let mut gaps = Vec::new();
    if count(Kind::Eval, Done::Checked) == 0 {
        gaps.push(format!("{op}: no function with the op is evaluated"));
    }
    let differentiable = count(Kind::Grad, Done::NotChecked) > 0;
    if differentiable && count(Kind::Grad, Done::Checked) == 0 && !WITHOUT_DIFFERENCES.contains(&op) {
        gaps.push(format!("{op}: no derivative of a function with the op is checked"));
    }
    gaps
}

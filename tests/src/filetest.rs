//! Filetests: functions in the text form, with what is expected of them in comments beside them.
//!
//! The first line of a file says which [`Kind`]s of test it is for:
//! ```text
//! // test: verify, text, eval, grad, lower, run, wasm
//!
//! func @tanh_f32(%x: f32[2]) -> (f32[2]) {
//!   %y: f32[2] = tanh(%x)
//!   return %y
//! }
//! // eval: dense<f32[2]: 0.5, -1.25>
//! //     = dense<f32[2]: 0.46211717, -0.84828365>
//! // lower:
//! //   func.func public @main(%arg0: tensor<2xf32>) -> tensor<2xf32> {
//! //     ...
//!
//! func @add_c1(%x: f32[2], %y: f32[3]) -> (f32[2]) {
//!   %z: f32[2] = add(%x, %y)
//!   // error: add (C1): the operands must have the same type, found f32[2] and f32[3]
//!   return %z
//! }
//! ```
//!
//! What follows a function's closing brace, up to an empty line, belongs to it. Each `eval` is a list of arguments, and
//! `=` what the function returns for them, a line a result; `run` and `grad` take the same arguments. A function that is
//! named for a constraint (`add_c1`), or has an `error` in it, must be refused at the line before the `error`. What is
//! asked not to be checked says why:
//! ```text
//! // grad: not checked: not smooth at every input
//! // run: not checked: ...
//! // wasm: not checked: ...
//! // jax: not recorded: ...
//! ```
//! With `BLESS=1` in the environment results, errors and lowered programs are written into the file; whoever does so
//! reads the difference. Otherwise a difference fails.

use std::fmt;

use lmc_graph::text::{ParseError, parse_each};
use lmc_graph::{Func, Literal, Op, eval, verify};
use lmc_lower::wasm::Mode;
use lmc_lower::{Options, Target, lower_with};

use crate::check::{self, Tolerance};
use crate::constraints;
use crate::plugin;
use crate::wasm;

/// What is done with each function of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// It passes the verifier, or is refused at the right line with the right message.
    Verify,
    /// Printing and parsing it gives the same text again.
    Text,
    /// The evaluator returns what the file says.
    Eval,
    /// Its derivative, and the derivative of that, agree with central differences.
    Grad,
    /// It lowers to the StableHLO that the file shows.
    Lower,
    /// It lowers for an H200 to the StableHLO that the file shows.
    Cuda,
    /// The CPU plugin returns what the evaluator returns, for the function and its derivative.
    Run,
    /// WebAssembly in an interpreter returns what the evaluator returns, for the function and its derivative.
    Wasm,
}

impl Kind {
    /// Every kind, in the order in which they are run.
    pub const ALL: [Kind; 8] =
        [Kind::Verify, Kind::Text, Kind::Eval, Kind::Grad, Kind::Lower, Kind::Cuda, Kind::Run, Kind::Wasm];

    /// The word in a file's first line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Verify => "verify",
            Kind::Text => "text",
            Kind::Eval => "eval",
            Kind::Grad => "grad",
            Kind::Lower => "lower",
            Kind::Cuda => "cuda",
            Kind::Run => "run",
            Kind::Wasm => "wasm",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was done for one function and one kind of test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Done {
    /// It was checked.
    Checked,
    /// There is nothing to check: no float parameter or result to differentiate, no `eval` to run.
    Nothing,
    /// The file asks not to check it, and says why.
    NotChecked,
}

/// What came of running a file.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What was done: the function, the kind of test.
    pub done: Vec<(String, Kind, Done)>,
    /// The ops of each function that the parser accepts, with the function.
    pub ops: Vec<(String, &'static str)>,
    /// What failed, rendered.
    pub failures: Vec<String>,
    /// The file with the present results, errors and lowered programs as its expectations.
    pub blessed: String,
}

/// The names of the functions in a filetest.
pub fn function_names(text: &str) -> Vec<String> {
    text.lines().filter_map(function_name).map(ToString::to_string).collect()
}

/// The function whose first line this is.
fn function_name(line: &str) -> Option<&str> {
    line.strip_prefix("func @")?.split('(').next()
}

/// The arguments that a function is evaluated with, in the order of the file.
///
/// # Errors
/// The literal that cannot be read, and why.
pub fn evaluations(case: &Case) -> Result<Vec<Vec<Literal>>, String> {
    let lists = case.directives.iter().filter_map(|line| line.strip_prefix("// eval:"));
    lists.map(parse_literals).collect()
}

/// A function of a file with what stands around it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The function's name.
    pub name: String,
    /// The number of its first line, counted from 1.
    pub line: usize,
    /// The lines of the function, without `error` comments.
    pub text: Vec<String>,
    /// The lines behind it that ask for something: `eval` and what is not to be checked.
    pub directives: Vec<String>,
    /// Whether the function must be refused.
    pub is_broken: bool,
}

impl Case {
    fn has(&self, directive: &str) -> bool {
        self.directives.iter().any(|line| line.starts_with(directive))
    }

    /// Whether the file asks not to record what JAX computes for this function.
    pub fn is_without_jax(&self) -> bool {
        self.has("// jax: not recorded: ")
    }

    /// Whether the file asks not to compare the derivative with central differences.
    pub fn is_without_grad(&self) -> bool {
        self.has("// grad: not checked: ")
    }
}

/// A part of a file.
#[derive(Clone, Debug)]
enum Part {
    /// Lines that are no function.
    Lines(Vec<String>),
    /// A function.
    Case(Case),
}

/// A filetest.
#[derive(Clone, Debug)]
pub struct FileTest {
    path: String,
    text: String,
    /// The kinds of the first line.
    pub kinds: Vec<Kind>,
    parts: Vec<Part>,
}

/// The lines behind a function that ask for something. What else stands there is made by [`run`].
const DIRECTIVES: [&str; 5] =
    ["// eval:", "// grad: not checked: ", "// run: not checked: ", "// wasm: not checked: ", "// jax: not recorded: "];

/// The beginnings of lines behind a function that [`run`] makes.
const MADE: [&str; 5] = ["//     = ", "// grad: refused: ", "// lower:", "// cuda:", "//   "];

impl FileTest {
    /// Reads a filetest; `path` is what messages call it.
    ///
    /// # Errors
    /// The line that is not understood.
    pub fn parse(path: &str, text: &str) -> Result<FileTest, String> {
        let first = text.lines().next().unwrap_or_default();
        let words =
            first.strip_prefix("// test: ").ok_or_else(|| format!("{path}:1: expected `// test: ` and kinds"))?;
        let kind = |word: &str| {
            let known = || Kind::ALL.map(Kind::name).join(", ");
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == word);
            kind.ok_or_else(|| format!("{path}:1: unknown kind of test `{word}`; known: {}", known()))
        };
        let kinds = words.split(", ").map(kind).collect::<Result<Vec<Kind>, String>>()?;

        let mut parts = Vec::new();
        let mut lines = text.lines().enumerate().peekable();
        while let Some((i, line)) = lines.next() {
            let Some(name) = function_name(line) else {
                match parts.last_mut() {
                    Some(Part::Lines(lines)) => lines.push(line.to_string()),
                    Some(Part::Case(_)) | None => parts.push(Part::Lines(vec![line.to_string()])),
                }
                continue;
            };
            let mut case = Case {
                name: name.to_string(),
                line: i + 1,
                text: vec![line.to_string()],
                directives: Vec::new(),
                is_broken: constraints::broken_by(name).is_some(),
            };
            loop {
                let (_, line) = lines.next().ok_or_else(|| format!("{path}: @{name} does not end with `}}`"))?;
                if line.trim_start().starts_with("// error: ") {
                    case.is_broken = true;
                } else {
                    case.text.push(line.to_string());
                }
                if line == "}" {
                    break;
                }
            }
            while let Some((i, line)) = lines.next_if(|(_, line)| !line.is_empty()) {
                if DIRECTIVES.iter().any(|start| line.starts_with(start)) {
                    case.directives.push(line.to_string());
                } else if !MADE.iter().any(|start| line.starts_with(start)) {
                    return Err(format!("{path}:{}: not understood: {line}", i + 1));
                }
            }
            parts.push(Part::Case(case));
        }
        Ok(FileTest { path: path.to_string(), text: text.to_string(), kinds, parts })
    }

    /// The functions, in order.
    pub fn cases(&self) -> impl Iterator<Item = &Case> {
        self.parts.iter().filter_map(|part| match part {
            Part::Case(case) => Some(case),
            Part::Lines(_) => None,
        })
    }
}

/// Runs a filetest.
pub fn run(test: &FileTest) -> Outcome {
    let mut outcome = Outcome::default();
    let mut lines: Vec<String> = Vec::new();
    for part in &test.parts {
        match part {
            Part::Lines(text) => lines.extend_from_slice(text),
            Part::Case(case) => run_case(test, case, &mut outcome, &mut lines),
        }
    }
    outcome.blessed = lines.iter().map(|line| format!("{line}\n")).collect();
    if outcome.blessed != test.text {
        outcome.failures.push(first_difference(&test.path, &test.text, &outcome.blessed));
    }
    outcome
}

/// Where two versions of a file part, a few lines of each.
fn first_difference(path: &str, expected: &str, found: &str) -> String {
    const SHOWN: usize = 8;
    let (expected, found): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let at = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
    // Where both continue alike again.
    let rest = expected[at..].iter().rev().zip(found[at..].iter().rev()).take_while(|(a, b)| a == b).count();
    let shown = |lines: &[&str], mark: char| -> String {
        let lines = &lines[at..(lines.len() - rest).min(at + SHOWN)];
        lines.iter().map(|line| format!("\n{mark} {line}")).collect()
    };
    format!(
        "{path}:{}: the file says (-) something else than what is computed (+); BLESS=1 writes it{}{}",
        at + 1,
        shown(&expected, '-'),
        shown(&found, '+')
    )
}

/// Checks a function, and appends its lines with what is expected of it.
fn run_case(test: &FileTest, case: &Case, outcome: &mut Outcome, lines: &mut Vec<String>) {
    let text = case.text.join("\n");
    // The function keeps its line number, for messages.
    let padded = format!("{}{text}\n", "\n".repeat(case.line - 1));
    let parsed = match <[_; 1]>::try_from(parse_each(&test.path, &padded)) {
        Ok([(_, parsed)]) => parsed,
        Err(parsed) => {
            outcome.failures.push(format!("{}:{}: {} functions in one", test.path, case.line, parsed.len()));
            return;
        }
    };
    if case.is_broken {
        match refusal(case, parsed) {
            Ok((line, message)) => {
                let at = (line + 1).saturating_sub(case.line).clamp(1, case.text.len());
                lines.extend_from_slice(&case.text[..at]);
                let culprit = &case.text[at - 1];
                let indent = &culprit[..culprit.len() - culprit.trim_start().len()];
                let indent = if indent.is_empty() { "  " } else { indent };
                lines.push(format!("{indent}// error: {message}"));
                lines.extend_from_slice(&case.text[at..]);
                outcome.done.push((case.name.clone(), Kind::Verify, Done::Checked));
            }
            Err(reason) => {
                outcome.failures.push(format!("{}:{}: @{}: {reason}", test.path, case.line, case.name));
                lines.extend_from_slice(&case.text);
            }
        }
        return;
    }
    lines.extend_from_slice(&case.text);
    let fail = |outcome: &mut Outcome, kind: Kind, reason: String| {
        outcome.failures.push(format!("{}:{}: @{}: {kind}: {reason}", test.path, case.line, case.name));
    };
    let func = match parsed {
        Ok(func) => func,
        Err(error) => return fail(outcome, Kind::Verify, error.to_string()),
    };
    if let Err(errors) = verify(&func) {
        return fail(outcome, Kind::Verify, errors.to_string());
    }
    let ops = func.walk(func.body()).into_iter().map(|node| (case.name.clone(), func.node(node).op.name()));
    outcome.ops.extend(ops);
    let mut lowered = Vec::new();
    for &kind in &test.kinds {
        let done = match kind {
            Kind::Verify => Ok(Done::Checked),
            Kind::Text => text_is_inverse(&func),
            Kind::Eval => evaluate(case, &func, lines),
            Kind::Grad => differentiate(case, &func, lines),
            Kind::Lower => {
                lowered.extend(lower_lines("// lower:", &func, &Target::generic()));
                Ok(Done::Checked)
            }
            Kind::Cuda => match Target::named("h200") {
                Ok(target) => {
                    lowered.extend(lower_lines("// cuda:", &func, &target));
                    Ok(Done::Checked)
                }
                Err(error) => Err(error.to_string()),
            },
            Kind::Run => run_on_plugin(case, &func),
            Kind::Wasm => run_as_wasm(case, &func),
        };
        match done {
            Ok(done) => outcome.done.push((case.name.clone(), kind, done)),
            Err(reason) => fail(outcome, kind, reason),
        }
    }
    // Directives other than `eval` come after the results of those.
    lines.extend(case.directives.iter().filter(|line| !line.starts_with("// eval:")).cloned());
    lines.append(&mut lowered);
}

/// The line and the message with which a function is refused.
fn refusal(case: &Case, parsed: Result<Func, ParseError>) -> Result<(usize, String), String> {
    let label = constraints::broken_by(&case.name);
    let (line, message, broken) = match parsed {
        Err(error) => {
            let broken = error.type_error.map(|error| (error.op, error.violation.constraint.to_string()));
            (error.line as usize, error.message, broken)
        }
        Ok(func) => {
            let errors = verify(&func).err().ok_or("expected an error, found none")?;
            let [error] = &errors.errors[..] else { return Err(format!("expected one error, found:\n{errors}")) };
            let message = format!("{} ({}): {}", error.op, error.violation.constraint, error.violation.message);
            // What is said of the function, and not of a node, stands at its first line.
            let line = if error.location.line == 0 { case.line } else { error.location.line as usize };
            (line, message, Some((error.op.clone(), error.violation.constraint.to_string())))
        }
    };
    // What only the parser can refuse, such as a result of another type than the op's, has no label.
    match (&label, &broken) {
        (Some(label), Some(broken)) if label != broken => {
            Err(format!("expected {} ({}) to be broken, found: {message}", label.0, label.1))
        }
        (_, None) if !message.contains(" is written as ") => {
            Err(format!("the text is not well-formed: line {line}: {message}"))
        }
        _ => Ok((line, message.lines().next().unwrap_or_default().to_string())),
    }
}

/// Prints, parses and prints again.
fn text_is_inverse(func: &Func) -> Result<Done, String> {
    let once = lmc_graph::text::print(func);
    let parsed = lmc_graph::text::parse("printed", &once).map_err(|error| format!("{error}\n{once}"))?;
    let twice = lmc_graph::text::print(&parsed);
    if once == twice { Ok(Done::Checked) } else { Err(first_difference("printed", &once, &twice)) }
}

/// Evaluates the function for each list of arguments, and appends those and the results.
fn evaluate(case: &Case, func: &Func, lines: &mut Vec<String>) -> Result<Done, String> {
    let mut done = Done::Nothing;
    for directive in case.directives.iter().filter(|line| line.starts_with("// eval:")) {
        lines.push(directive.clone());
        let args = parse_literals(&directive["// eval:".len()..])?;
        let results = eval(func, &args).map_err(|error| error.to_string())?;
        lines.extend(results.iter().map(|result| format!("//     = {result}")));
        done = Done::Checked;
    }
    Ok(done)
}

/// Compares the derivative with central differences, and the derivative of the derivative; or appends why there is none.
fn differentiate(case: &Case, func: &Func, lines: &mut Vec<String>) -> Result<Done, String> {
    if !check::has_derivative(func) {
        return Ok(Done::Nothing);
    }
    let first = match check::derivative(func) {
        Ok(first) => first,
        Err(error) => {
            let message = error.to_string();
            let message = message.lines().next().unwrap_or_default();
            lines.push(format!("// grad: refused: {}", message.strip_prefix("error: ").unwrap_or(message)));
            return Ok(Done::Checked);
        }
    };
    verify(&first).map_err(|errors| format!("the derivative is not a function: {errors}\n{first}"))?;
    let second = check::derivative(&first).map_err(|error| format!("the derivative has none: {error}"))?;
    verify(&second).map_err(|errors| format!("the second derivative is not a function: {errors}\n{second}"))?;
    if case.is_without_grad() {
        return Ok(Done::NotChecked);
    }
    let evaluations = evaluations(case)?;
    for args in &evaluations {
        check::against_differences(func, &first, args)?;
        let cts = check::cotangents(&func.result_types());
        check::against_differences(&first, &second, &[&args[..], &cts].concat())
            .map_err(|reason| format!("second order: {reason}"))?;
    }
    Ok(if evaluations.is_empty() { Done::Nothing } else { Done::Checked })
}

/// The lowered program, as comments below `heading`.
fn lower_lines(heading: &str, func: &Func, target: &Target) -> Vec<String> {
    let text = lower_with(func, target, &Options { locations: false }).text;
    let body: Vec<&str> = text.lines().collect();
    // Without the module around the functions.
    let body = body.get(1..body.len().saturating_sub(1)).unwrap_or_default();
    let lines =
        body.iter().map(|line| format!("//   {}", line.strip_prefix("  ").unwrap_or(line)).trim_end().to_string());
    std::iter::once(heading.to_string()).chain(lines).collect()
}

/// Compares the plugin's results with the evaluator's, for the function and its derivative.
fn run_on_plugin(case: &Case, func: &Func) -> Result<Done, String> {
    run_on_device(case, func, "// run: not checked: ", &|func, evaluations, tolerance| {
        let program = plugin::compile(func)?;
        for args in evaluations {
            let expected = eval(func, args).map_err(|error| error.to_string())?;
            let found = plugin::execute(&program, args)?;
            check::compare(&found, &expected, tolerance).map_err(|reason| format!("{reason}\n{func}"))?;
        }
        Ok(())
    })
}

/// Compares WebAssembly's results with the evaluator's, for the function and its derivative.
fn run_as_wasm(case: &Case, func: &Func) -> Result<Done, String> {
    run_on_device(case, func, "// wasm: not checked: ", &|func, evaluations, tolerance| {
        let module = wasm::module(func, Mode::Together)?;
        for args in evaluations {
            let expected = eval(func, args).map_err(|error| error.to_string())?;
            let found = wasm::execute(&module, args)?;
            if let Err(reason) = check::compare(&found, &expected, tolerance) {
                let group = wasm::wrong_group(func, args, tolerance)?;
                let group = group.unwrap_or_else(|| "every group alone is right".into());
                return Err(format!("{reason}\ngroup {group}\n{func}"));
            }
        }
        Ok(())
    })
}

/// What runs a function for lists of arguments and compares its results with the evaluator's.
type OnDevice<'a> = &'a dyn Fn(&Func, &[Vec<Literal>], Tolerance) -> Result<(), String>;

/// Runs a function and its derivative on a device.
fn run_on_device(case: &Case, func: &Func, not_checked: &str, on_device: OnDevice<'_>) -> Result<Done, String> {
    if case.has(not_checked) {
        return Ok(Done::NotChecked);
    }
    let evaluations = evaluations(case)?;
    if evaluations.is_empty() {
        return Ok(Done::Nothing);
    }
    on_device(func, &evaluations, Tolerance::DEVICE.for_results_of(func))?;
    if check::has_derivative(func)
        && !case.is_without_grad()
        && let Ok(derivative) = check::derivative(func)
    {
        // Cotangents of one value are summed.
        let cts = check::cotangents(&func.result_types());
        let slack = Tolerance::DEVICE.for_results_of(&derivative).slack.max(Tolerance::DEVICE.slack);
        let tolerance = Tolerance { slack, ..Tolerance::DEVICE };
        let evaluations: Vec<Vec<Literal>> = evaluations.iter().map(|args| [&args[..], &cts].concat()).collect();
        on_device(&derivative, &evaluations, tolerance).map_err(|reason| format!("derivative: {reason}"))?;
    }
    Ok(Done::Checked)
}

/// Literals in the text form, separated by commas.
///
/// # Errors
/// The literal that cannot be read, and why.
pub fn parse_literals(list: &str) -> Result<Vec<Literal>, String> {
    let list = list.trim();
    let starts: Vec<usize> = list.match_indices("dense<").map(|(at, _)| at).collect();
    if starts.first().copied().unwrap_or(list.len()) != 0 {
        return Err(format!("expected `dense<`, found {list}"));
    }
    let ends = starts.iter().skip(1).copied().chain([list.len()]);
    starts.iter().zip(ends).map(|(&start, end)| parse_literal(list[start..end].trim_end_matches([',', ' ']))).collect()
}

/// One literal: the value of a constant in a function made for it, so that there is one parser.
fn parse_literal(text: &str) -> Result<Literal, String> {
    let ty = text.strip_prefix("dense<").and_then(|rest| rest.split(':').next());
    let ty = ty.ok_or_else(|| format!("expected a literal, found {text}"))?;
    let func = format!("func @f() -> ({ty}) {{\n  %0: {ty} = constant() {{value = {text}}}\n  return %0\n}}\n");
    let func = lmc_graph::text::parse("literal", &func).map_err(|error| error.to_string())?;
    let mut constants = func.walk(func.body()).into_iter().filter_map(|node| {
        if let Op::Constant(constant) = &func.node(node).op { Some(constant.value.clone()) } else { None }
    });
    constants.next().ok_or_else(|| format!("expected a literal, found {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
// test: verify, text, eval, grad

func @f(%x: f32[1]) -> (f32[1]) {
  %y: f32[1] = multiply(%x, %x)
  return %y
}
// eval: dense<f32[1]: 3.0>
//     = dense<f32[1]: 9.0>

func @add_c1(%x: f32[1], %y: f32[2]) -> (f32[1]) {
  %z: f32[1] = add(%x, %y)
  // error: add (C1): the operands must have the same type, found f32[1] and f32[2]
  return %z
}
";

    /// The failures of a text, and the text with what was computed.
    fn run_text(text: &str) -> (String, String) {
        let test = FileTest::parse("f.lmir", text).unwrap_or_else(|error| panic!("{error}"));
        let outcome = run(&test);
        (outcome.failures.join("\n"), outcome.blessed)
    }

    #[test]
    fn a_right_file_passes() {
        assert_eq!(run_text(GOOD), (String::new(), GOOD.to_string()));
    }

    #[test]
    fn a_wrong_file_fails_and_can_be_blessed() {
        let check = |from: &str, to: &str, complaint: &str| {
            assert!(GOOD.contains(from), "{from}");
            let (failures, blessed) = run_text(&GOOD.replace(from, to));
            assert!(failures.contains(complaint), "{from} -> {to}: {failures}");
            assert_eq!(blessed, GOOD, "{from} -> {to}");
        };
        check("//     = dense<f32[1]: 9.0>", "//     = dense<f32[1]: 8.0>", "f.lmir:8: the file says");
        check("//     = dense<f32[1]: 9.0>\n", "", "f.lmir:8: the file says");
        check("must have the same type", "must be equal", "f.lmir:12: the file says");
        check(
            "  // error: add (C1): the operands must have the same type, found f32[1] and f32[2]\n  return %z\n",
            "  return %z\n  // error: add (C1): the operands must have the same type, found f32[1] and f32[2]\n",
            "f.lmir:12: the file says",
        );
    }

    #[test]
    fn a_broken_file_fails() {
        let check = |from: &str, to: &str, complaint: &str| {
            assert!(GOOD.contains(from), "{from}");
            let (failures, _) = run_text(&GOOD.replace(from, to));
            assert!(failures.contains(complaint), "{from} -> {to}: {failures}");
        };
        check("%y: f32[2]) -> (f32[1]) {\n  %z", "%y: f32[1]) -> (f32[1]) {\n  %z", "expected an error, found none");
        check("@add_c1", "@add_i1", "expected add (I1) to be broken");
        check("@add_c1", "@subtract_c1", "expected subtract (C1) to be broken");
        check("multiply(%x, %x)", "multiply(%x)", "multiply (I0)");
        check("f32[1]: 3.0", "f32[1]: three", "literal");
    }

    #[test]
    fn a_file_that_is_not_understood() {
        let check = |text: &str, complaint: &str| {
            let error = FileTest::parse("f.lmir", text).expect_err("it is not a filetest");
            assert!(error.contains(complaint), "{error}");
        };
        check("func @f() -> () {\n}\n", "expected `// test: ` and kinds");
        check("// test: verify, frobnicate\n", "unknown kind of test `frobnicate`");
        check("// test: eval\nfunc @f() -> () {\n  return\n}\n// evil: x\n", "f.lmir:5: not understood");
        check("// test: eval\nfunc @f() -> () {\n", "does not end");
    }

    #[test]
    fn literals() {
        let check = |text: &str, expected: &[&str]| {
            let found = parse_literals(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        };
        check("", &[]);
        check("dense<f32[2]: 1.0, -2.5>, dense<i32[]: 3>", &["dense<f32[2]: 1.0, -2.5>", "dense<i32[]: 3>"]);
        assert!(parse_literals("3.0").is_err());
        assert!(parse_literals("dense<f32[2]: 1.0>").is_err());
    }
}

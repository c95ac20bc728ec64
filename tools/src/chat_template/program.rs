//! Running a template: compiled by `minijinja`, with what Python does otherwise put in its place, and with an end.
//!
//! Operators that make texts and lists are calls of functions of ours, which write as Python does and stay within a
//! budget; whatever else makes a value is followed by a call that charges for it. Both are changes to the instructions
//! that `minijinja` compiles a template to.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::machinery::{
    CodeGenerator, Instruction, Instructions, Token, Vm, WhitespaceConfig, make_string_output, parse, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, Value};

use super::budget::Budget;
use super::builtins;
use super::operators::{ADD, CHARGE, CONCATENATE, MULTIPLY, SLICE};

/// Instructions that a rendering may take. A message of a chat takes a hundred or two.
const MOST_INSTRUCTIONS: u64 = 2_000_000;

/// Bytes of text and lists that a rendering may make, to which comes [`BYTES_PER_INPUT_BYTE`] for each byte that goes in.
const MOST_BYTES: usize = 64 << 20;

/// A template takes a message apart and puts it together again, a few times over.
const BYTES_PER_INPUT_BYTE: usize = 64;

/// Bytes of a template; those of today's models have up to about 30,000.
const MOST_SOURCE_BYTES: usize = 128 << 10;

/// What is reserved for the stack of a rendering. Lists as deep as [`MOST_INSTRUCTIONS`] can make them are dropped by
/// recursion, and sums as long as [`MOST_SOURCE_BYTES`] allows are compiled by it.
const STACK_BYTES: usize = 256 << 20;

/// How templates are read: as `transformers` has it.
const WHITESPACE: WhitespaceConfig =
    WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };

/// `*`, behind a filter that changes nothing: what is no constant is no product while compiling.
const PRODUCT: &str = "|lmc_unchanged *";

/// `~`, likewise.
const CONCATENATION: &str = "|lmc_unchanged ~";

/// The name of templates in errors.
const NAME: &str = "chat template";

/// Whether a template can be compiled.
///
/// # Errors
/// What is wrong with it, with the line.
pub(super) fn check(source: &str) -> Result<(), String> {
    if source.len() > MOST_SOURCE_BYTES {
        return Err(format!("it has {} bytes, more than {MOST_SOURCE_BYTES}", source.len()));
    }
    with_stack(|| {
        let source = rewrite(source)?;
        compile(&source).map(|_| ())
    })
}

/// What a template makes of `variables`, which has `input_bytes` of text.
///
/// # Errors
/// What the template refuses, what is wrong with it, or that it does not come to an end.
pub(super) fn render(source: &str, variables: Value, input_bytes: usize) -> Result<String, String> {
    let budget = MOST_BYTES.saturating_add(input_bytes.saturating_mul(BYTES_PER_INPUT_BYTE));
    with_stack(|| run(source, variables, Arc::new(Budget::new(budget))))
}

/// Calls `work` where recursion has room, and explains its error.
fn with_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, String> {
    let run = || work().map_err(|error| explain(&error));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, run).map_err(|error| format!("a thread cannot be started: {error}"))?;
        thread.join().unwrap_or_else(|_| Err("the template makes the engine fail".to_owned()))
    })
}

fn run(source: &str, variables: Value, budget: Arc<Budget>) -> Result<String, Error> {
    let source = rewrite(source)?;
    let mut env = Environment::new();
    builtins::add_to(&mut env, &budget);
    env.set_debug(false);
    env.set_fuel(Some(MOST_INSTRUCTIONS));
    let (instructions, blocks) = compile(&source)?;
    let mut text = String::new();
    let mut out = make_string_output(&mut text);
    Vm::new(&env).eval(&instructions, variables, &blocks, &mut out, AutoEscape::None)?;
    Ok(text)
}

/// The template with what `minijinja` has no form for, or another one: a block `generation`, which marks what the model
/// wrote, is one that only scopes its variables. Products of constants, which would be made while compiling, at any size,
/// are none, nor are constants one behind the other, which Python writes otherwise.
fn rewrite(source: &str) -> Result<String, Error> {
    let mut rewritten = String::with_capacity(source.len());
    let mut copied = 0;
    let mut before = None;
    for token in tokenize(source, false, SyntaxConfig, WHITESPACE) {
        let (token, span) = token?;
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        let replacement = if let Token::Ident(name @ ("generation" | "endgeneration")) = token
            && matches!(before, Some(Token::BlockStart))
        {
            Some(if name == "generation" { "with" } else { "endwith" })
        } else if matches!(token, Token::Mul) {
            // Arguments that a list is unpacked to are no product.
            (!matches!(before, Some(Token::ParenOpen | Token::Comma))).then_some(PRODUCT)
        } else {
            matches!(token, Token::Tilde).then_some(CONCATENATION)
        };
        if let Some(replacement) = replacement {
            rewritten.push_str(&source[copied..start]);
            rewritten.push_str(replacement);
            copied = end;
        }
        before = Some(token);
    }
    rewritten.push_str(&source[copied..]);
    Ok(rewritten)
}

/// A template as instructions, and the blocks it has.
type Compiled<'s> = (Instructions<'s>, BTreeMap<&'s str, Instructions<'s>>);

fn compile(source: &str) -> Result<Compiled<'_>, Error> {
    let tree = parse(source, NAME, SyntaxConfig, WHITESPACE)?;
    let mut code = CodeGenerator::new(NAME, source);
    code.compile_stmt(&tree);
    let (instructions, blocks) = code.finish();
    let blocks = blocks.iter().map(|(name, block)| (*name, within_budget(block))).collect();
    Ok((within_budget(&instructions), blocks))
}

/// The instructions with calls of ours in place of some and behind others.
fn within_budget<'s>(instructions: &Instructions<'s>) -> Instructions<'s> {
    let old = || (0..).map_while(|index| instructions.get(index).map(|instruction| (index, instruction)));
    // Where each instruction goes, and where the end goes.
    let mut places = vec![0_u32];
    for (_, instruction) in old() {
        places.push(places[places.len() - 1] + in_place_of(instruction).len() as u32);
    }
    let mut new = Instructions::new(instructions.name(), instructions.source());
    for (index, instruction) in old() {
        for mut instruction in in_place_of(instruction) {
            if let Instruction::Iterate(target)
            | Instruction::Jump(target)
            | Instruction::JumpIfFalse(target)
            | Instruction::JumpIfFalseOrPop(target)
            | Instruction::JumpIfTrueOrPop(target)
            | Instruction::BuildMacro(_, target, _) = &mut instruction
            {
                *target = places[*target as usize];
            }
            match (instructions.get_span(index), instructions.get_line(index)) {
                (Some(span), _) => new.add_with_span(instruction, span),
                (None, Some(line)) => new.add_with_line(instruction, u16::try_from(line).unwrap_or(u16::MAX)),
                (None, None) => new.add(instruction),
            };
        }
    }
    new
}

fn in_place_of<'s>(instruction: &Instruction<'s>) -> Vec<Instruction<'s>> {
    if let Instruction::EmitRaw(text) = instruction {
        // Through the formatter, which charges.
        return vec![Instruction::LoadConst(Value::from(*text)), Instruction::Emit];
    }
    let calls = [
        (matches!(instruction, Instruction::Add), ADD, 2),
        (matches!(instruction, Instruction::Mul), MULTIPLY, 2),
        (matches!(instruction, Instruction::StringConcat), CONCATENATE, 2),
        (matches!(instruction, Instruction::Slice), SLICE, 4),
    ];
    if let Some((_, name, arguments)) = calls.into_iter().find(|(is_this, _, _)| *is_this) {
        return vec![Instruction::CallFunction(name, Some(arguments))];
    }
    let may_grow = matches!(
        instruction,
        Instruction::ApplyFilter(..)
            | Instruction::CallFunction(..)
            | Instruction::CallMethod(..)
            | Instruction::CallObject(..)
    );
    let charge = may_grow.then_some(Instruction::CallFunction(CHARGE, Some(1)));
    [instruction.clone()].into_iter().chain(charge).collect()
}

/// An error in a sentence, with the line of the template.
fn explain(error: &Error) -> String {
    let reason = match (error.kind(), error.detail()) {
        (minijinja::ErrorKind::OutOfFuel, _) => {
            format!("it does not end within {MOST_INSTRUCTIONS} instructions")
        }
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    };
    match error.line() {
        Some(line) => format!("line {line}: {reason}"),
        None => reason,
    }
}

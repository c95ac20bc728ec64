//! What the text of a program says about itself: the module's name and the types of `@main`'s arguments. PJRT has no
//! call for the latter, and its own message for a wrong argument names no types.

use lmc_graph::{DType, TensorType};

use crate::error::{Error, Result};

/// The name of the module and the arguments of its function `@main`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    /// The module's name; `module` where it has none.
    pub(crate) module: String,
    /// The types of the arguments.
    pub(crate) arguments: Vec<TensorType>,
}

impl Signature {
    /// Reads a StableHLO module in the text form.
    ///
    /// # Errors
    /// When there is no `@main`, or an argument is not a tensor of static shape with an element type of lmc.
    pub(crate) fn of(text: &str) -> Result<Signature> {
        let module = text
            .split_once("module @")
            .map(|(_, rest)| rest.split(|c: char| !(c.is_alphanumeric() || "_.$-".contains(c))).next().unwrap_or(""))
            .filter(|name| !name.is_empty())
            .unwrap_or("module")
            .to_owned();
        let start = main_arguments(text).ok_or_else(|| Error::Signature("there is no `func.func @main(`".into()))?;
        let arguments = split_arguments(start)?.into_iter().map(argument_type).collect::<Result<_>>()?;
        Ok(Signature { module, arguments })
    }
}

/// The text behind the parenthesis that opens `@main`'s arguments.
fn main_arguments(text: &str) -> Option<&str> {
    text.lines().find_map(|line| {
        let function = line.split_once("func.func")?.1;
        let (before, behind) = function.split_once("@main(")?;
        // Behind the keyword only a visibility may stand before the name.
        let named = matches!(before.trim(), "" | "public" | "private" | "nested");
        // Arguments may go over several lines, so the rest of the whole text is what follows.
        named.then(|| &text[behind.as_ptr() as usize - text.as_ptr() as usize..])
    })
}

/// Cuts `%a: tensor<..> {..}, %b: ..)` at its commas, up to the parenthesis that closes it.
fn split_arguments(text: &str) -> Result<Vec<&str>> {
    let mut arguments = Vec::new();
    let (mut depth, mut begin, mut quoted, mut escaped) = (0usize, 0, false, false);
    for (at, c) in text.char_indices() {
        if quoted {
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '"' => quoted = true,
            ')' if depth == 0 => {
                if !text[begin..at].trim().is_empty() {
                    arguments.push(text[begin..at].trim());
                }
                return Ok(arguments);
            }
            '(' | '<' | '{' | '[' => depth += 1,
            // The arrow of a function type is no bracket.
            '>' if text[..at].ends_with('-') => {}
            ')' | '>' | '}' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                arguments.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    Err(Error::Signature("the arguments of @main have no end".into()))
}

/// The type in `%arg0: tensor<2x3xf32> {..} loc(..)`.
fn argument_type(argument: &str) -> Result<TensorType> {
    let wrong = |why: &str| Error::Signature(format!("argument `{argument}` {why}"));
    let tensor = argument
        .split_once(": tensor<")
        .and_then(|(_, rest)| rest.split_once('>'))
        .map(|(tensor, _)| tensor)
        .ok_or_else(|| wrong("is not a tensor"))?;
    let mut parts: Vec<&str> = tensor.split('x').collect();
    let dtype = parts.pop().unwrap_or("").parse::<DType>().map_err(|e| wrong(&format!("has an {e}")))?;
    let shape = parts
        .iter()
        .map(|size| size.parse::<usize>().map_err(|_| wrong("has no static shape")))
        .collect::<Result<Vec<usize>>>()?;
    Ok(TensorType::new(dtype, shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let found = match Signature::of(text) {
            Ok(signature) => {
                let types: Vec<String> = signature.arguments.iter().map(TensorType::to_string).collect();
                format!("{}({})", signature.module, types.join(", "))
            }
            Err(e) => e.to_string(),
        };
        assert!(found == expected || found.ends_with(expected), "{found}");
    }

    #[test]
    fn signatures() {
        check("module @m { func.func @main() -> tensor<f32> {", "m()");
        check("module {\n func.func public @main(%a: tensor<f32>) {", "module(f32[])");
        check(
            "module @a.b attributes {x = 1} {\nfunc.func @main(%a: tensor<2x3xbf16>, %b: tensor<4xi1>)",
            "a.b(bf16[2,3], i1[4])",
        );
        check(
            "module @m {\n  func.func public @main(\n    %a: tensor<2xi32> {tf.aliasing_output = 0 : i32} loc(\"a)\\\"(\"(\"f\":1:2)),\n    \
             %b: tensor<5xui8> {x = [1, 2]}) -> (tensor<2xi32>, tensor<f32>) {",
            "m(i32[2], ui8[5])",
        );
        check(
            "module @m {\n func.func private @main_body(%a: tensor<2xf32>)\n call @main(%x)\n func.func @main(%a: tensor<7xf64>)",
            "m(f64[7])",
        );
        check("module @m { func.func @f(%a: tensor<2xf32>)", "there is no `func.func @main(`");
        check("module @m { func.func @main(%a: tensor<?xf32>)", "argument `%a: tensor<?xf32>` has no static shape");
        check("module @m { func.func @main(%a: !stablehlo.token)", "argument `%a: !stablehlo.token` is not a tensor");
        check("module @m { func.func @main(%a: tensor<2xf32>", "the arguments of @main have no end");
    }
}

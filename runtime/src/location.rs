//! The model's line behind an error of XLA.
//!
//! XLA's messages come in lines `FILE:LINE:COLUMN: error: ..`. For a mistake of syntax or type the file is `-`, the
//! text of the program itself; for an op that is refused it is what the op's `loc(..)` says, without the scope path.

/// The `loc(..)` of the op that a message is about, or, where the op has none, its line of the program.
pub(crate) fn location_of(message: &str, text: &str) -> Option<String> {
    message.lines().find_map(|line| {
        let (place, _) = line.split_once(": error: ")?;
        let mut parts = place.rsplitn(3, ':');
        let (column, number, file) = (parts.next()?, parts.next()?, parts.next()?);
        let (column, number): (usize, usize) = (column.parse().ok()?, number.parse().ok()?);
        if file == "-" {
            let op = text.lines().nth(number.checked_sub(1)?)?;
            let location = last_location(op).map(|location| resolve(location, text));
            return Some(location.unwrap_or_else(|| format!("line {number} of the program: {}", op.trim())));
        }
        let at = text.find(&format!("\"{file}\":{number}:{column}"))?;
        let start = text[..at].rfind("loc(")?;
        enclosed(&text[start..]).map(str::to_owned)
    })
}

/// The last `loc(..)` of a line: that of its op, as those of arguments come before.
fn last_location(line: &str) -> Option<&str> {
    enclosed(&line[line.rfind(" loc(")? + 1..])
}

/// What `loc(#name)` stands for, or any other location as it is.
fn resolve(location: &str, text: &str) -> String {
    let alias = location.strip_prefix("loc(").and_then(|rest| rest.strip_suffix(')')).filter(|a| a.starts_with('#'));
    let definition = alias.and_then(|alias| {
        text.lines().find_map(|line| line.strip_prefix(alias)?.trim_start().strip_prefix('=').map(str::trim))
    });
    definition.unwrap_or(location).to_owned()
}

/// `loc(..)` at the start of a text, up to the parenthesis that closes it.
fn enclosed(text: &str) -> Option<&str> {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for (at, c) in text.char_indices() {
        match c {
            '"' if !escaped => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(&text[..=at]);
                }
            }
            _ => {}
        }
        escaped = quoted && !escaped && c == '\\';
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "module @m {\n  %0 = add loc(\"mlp\"(\"model.rs\":3:5))\n  %1 = sub loc(#loc7)\n  %2 = neg\n}\n\
                        #loc7 = loc(\"attn (q)\"(\"model.rs\":30:5))\n";

    #[track_caller]
    fn check(message: &str, expected: Option<&str>) {
        assert_eq!(location_of(message, TEXT).as_deref(), expected);
    }

    #[test]
    fn locations() {
        check("-:2:9: error: no", Some("loc(\"mlp\"(\"model.rs\":3:5))"));
        check("-:3:9: error: no", Some("loc(\"attn (q)\"(\"model.rs\":30:5))"));
        check("-:4:9: error: no", Some("line 4 of the program: %2 = neg"));
        check("model.rs:3:5: error: no", Some("loc(\"mlp\"(\"model.rs\":3:5))"));
        check("x\nmodel.rs:30:5: error: no", Some("loc(\"attn (q)\"(\"model.rs\":30:5))"));
        check("<unknown>:0: error: no", None);
        check("-:99:1: error: no", None);
        check("-:0:1: error: no", None);
        check("other.rs:3:5: error: no", None);
        check("out of memory", None);
    }
}

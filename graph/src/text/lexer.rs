//! Tokens of the text form, with their places.

/// What a token is. Words and numbers borrow from the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind<'t> {
    /// Letters, digits, `_`, `.`, `$` and `-`, not starting with a digit; also `-inf`.
    Word(&'t str),
    /// `%` and a word or number, without the `%`.
    Value(&'t str),
    /// `@` and a word or string, without the `@`.
    Name(String),
    /// Text in double quotes, escapes resolved.
    String(String),
    /// Anything that starts like a number; whether it is one shows when it is read as one type or another.
    Number(&'t str),
    /// Brackets, separators, `->`, `...`.
    Punctuation(&'static str),
    /// The end of the text.
    End,
    /// No token, and why not.
    Bad(String),
}

impl Kind<'_> {
    /// How a message calls the token.
    pub(super) fn describe(&self) -> String {
        match self {
            Kind::Word(word) => format!("`{word}`"),
            Kind::Value(name) => format!("`%{name}`"),
            Kind::Name(name) => format!("`@{name}`"),
            Kind::String(text) => format!("the string {text:?}"),
            Kind::Number(number) => format!("`{number}`"),
            Kind::Punctuation(punctuation) => format!("`{punctuation}`"),
            Kind::End => "the end of the text".into(),
            Kind::Bad(message) => message.clone(),
        }
    }
}

/// A place in the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    /// The byte at which it starts.
    pub(super) start: usize,
    /// One past the last byte.
    pub(super) end: usize,
    /// The line of the start, counted from 1.
    pub(super) line: u32,
    /// The byte at which that line starts.
    pub(super) line_start: usize,
}

/// A token and its place.
#[derive(Clone, Debug)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind<'t>,
    pub(super) span: Span,
}

/// Reads tokens one by one.
#[derive(Debug)]
pub(super) struct Lexer<'t> {
    text: &'t str,
    at: usize,
    line: u32,
    line_start: usize,
}

/// Longer ones first, so that `->` is not read as `-` and `>`.
const PUNCTUATION: [&str; 14] = ["...", "->", "(", ")", "{", "}", "[", "]", "<", ">", ":", ",", "=", "^"];

/// Whether `c` can stand in a word. `-` and `.` can, as function names have them (`train-step`, `layer.0`).
pub(super) fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$' | '-')
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Lexer<'t> {
        Lexer { text, at: 0, line: 1, line_start: 0 }
    }

    /// Continues at the first line after `span` that starts with `func`, or at the end.
    pub(super) fn skip_to_func(&mut self, span: Span) {
        (self.at, self.line, self.line_start) = (span.start, span.line, span.line_start);
        while let Some(length) = self.text[self.at..].find('\n') {
            self.at += length + 1;
            self.line = self.line.saturating_add(1);
            self.line_start = self.at;
            if self.text[self.at..].starts_with("func ") {
                return;
            }
        }
        self.at = self.text.len();
    }

    /// The next token.
    pub(super) fn next(&mut self) -> Token<'t> {
        self.skip_space();
        let start = self.at;
        let rest = &self.text[start..];
        let kind = match rest.chars().next() {
            None => Ok(Kind::End),
            Some('"') => self.string().map(Kind::String),
            Some('%') => self.after_sign("%", "a value's name").map(Kind::Value),
            Some('@') if rest[1..].starts_with('"') => {
                self.at += 1;
                self.string().map(Kind::Name)
            }
            Some('@') => self.after_sign("@", "a function's name").map(|name| Kind::Name(name.to_string())),
            Some(c) if c.is_ascii_alphabetic() || c == '_' || rest.starts_with("-inf") => Ok(Kind::Word(self.word())),
            Some(c) if c.is_ascii_digit() => Ok(Kind::Number(self.number())),
            Some('-') if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => Ok(Kind::Number(self.number())),
            Some(c) => match PUNCTUATION.into_iter().find(|punctuation| rest.starts_with(punctuation)) {
                Some(punctuation) => {
                    self.at += punctuation.len();
                    Ok(Kind::Punctuation(punctuation))
                }
                None => {
                    self.at += c.len_utf8();
                    Err(format!("{c:?} has no meaning here"))
                }
            },
        };
        let span = Span { start, end: self.at, line: self.line, line_start: self.line_start };
        Token { kind: kind.unwrap_or_else(Kind::Bad), span }
    }

    /// Skips white space and comments.
    fn skip_space(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            match rest.chars().next() {
                Some('\n') => {
                    self.at += 1;
                    self.line = self.line.saturating_add(1);
                    self.line_start = self.at;
                }
                Some(c) if c.is_whitespace() => self.at += c.len_utf8(),
                Some('/') if rest.starts_with("//") => self.at += rest.find('\n').unwrap_or(rest.len()),
                Some(_) | None => return,
            }
        }
    }

    fn word(&mut self) -> &'t str {
        let rest = &self.text[self.at..];
        let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    /// The word after a sign.
    fn after_sign(&mut self, sign: &'static str, expected: &str) -> Result<&'t str, String> {
        self.at += sign.len();
        let word = self.word();
        if word.is_empty() { Err(format!("expected {expected} after `{sign}`")) } else { Ok(word) }
    }

    /// Digits with an optional fraction and exponent, or `0x` and hexadecimal digits.
    fn number(&mut self) -> &'t str {
        let rest = &self.text[self.at..];
        let bytes = rest.as_bytes();
        let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
        let mut end = usize::from(bytes[0] == b'-');
        if rest[end..].starts_with("0x") {
            end += 2;
            end += rest[end..].find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len() - end);
        } else {
            while digit(end) {
                end += 1;
            }
            if bytes.get(end) == Some(&b'.') && digit(end + 1) {
                end += 1;
                while digit(end) {
                    end += 1;
                }
            }
            if matches!(bytes.get(end), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
                if digit(end + 1 + sign) {
                    end += 1 + sign;
                    while digit(end) {
                        end += 1;
                    }
                }
            }
        }
        self.at += end;
        &rest[..end]
    }

    /// A string at its opening quote.
    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut string = String::new();
        loop {
            let Some(c) = self.text[self.at..].chars().next().filter(|&c| c != '\n') else {
                return Err("the string does not end on its line; write `\\n` for a line break".into());
            };
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(string),
                '\\' => string.push(self.escape()?),
                c => string.push(c),
            }
        }
    }

    /// What an escape stands for, after its backslash: those of Rust's `escape_debug`.
    fn escape(&mut self) -> Result<char, String> {
        let rest = &self.text[self.at..];
        if let Some(hex) = rest.strip_prefix("u{") {
            let digits = &hex[..hex.find('}').ok_or("expected `}` after `\\u{`")?];
            let c = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
            let c = c.ok_or_else(|| format!("`\\u{{{digits}}}` is not a character"))?;
            self.at += "u{}".len() + digits.len();
            return Ok(c);
        }
        let c = rest.chars().next().unwrap_or('\n');
        let meaning = match c {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '0' => '\0',
            '"' | '\'' | '\\' => c,
            c => return Err(format!("unknown escape {c:?} after a backslash; known: n, r, t, 0, \", ', \\, u{{…}}")),
        };
        self.at += 1;
        Ok(meaning)
    }
}

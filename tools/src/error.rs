//! The error of the program: one message for a person, and the exit code it ends with.

use std::fmt;
use std::io;
use std::path::Path;

/// What a failure says about who can mend it; it decides the exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The user's input is wrong: a config, an argument, a data file, a folder. Exit code 2.
    Input,
    /// Something failed while running: the device, the disk. Exit code 1.
    Run,
    /// The loss or a gradient is not finite. Exit code 3.
    NonFinite,
}

/// One clear message: what was expected, what was found, where, and what to do.
///
/// The message has no `error: ` in front; whoever prints it adds that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// `Result` with the program's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The user's input is wrong (exit code 2).
    pub fn input(message: impl Into<String>) -> Error {
        Error { kind: ErrorKind::Input, message: message.into() }
    }

    /// A failure while running (exit code 1).
    pub fn run(message: impl Into<String>) -> Error {
        Error { kind: ErrorKind::Run, message: message.into() }
    }

    /// A loss or gradient that is not finite (exit code 3).
    pub fn non_finite(message: impl Into<String>) -> Error {
        Error { kind: ErrorKind::NonFinite, message: message.into() }
    }

    /// Input at `path` cannot be read (exit code 2). `what` names the file's role: "training data".
    pub fn cannot_read(what: &str, path: &Path, error: &io::Error) -> Error {
        Error::input(format!("cannot read {what} {}: {}", path.display(), reason(error)))
    }

    /// Output at `path` cannot be written while running (exit code 1). `what` names the file's role: "checkpoint".
    pub fn cannot_write(what: &str, path: &Path, error: &io::Error) -> Error {
        Error::run(format!("cannot write {what} {}: {}", path.display(), reason(error)))
    }

    /// Who can mend it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message, without `error: ` in front.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The exit code of a program that ends with this error: 2, 1 or 3.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            ErrorKind::Run => 1,
            ErrorKind::Input => 2,
            ErrorKind::NonFinite => 3,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The system's reason in words, without Rust's `(os error 2)`.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_manual() {
        assert_eq!(Error::run("x").exit_code(), 1);
        assert_eq!(Error::input("x").exit_code(), 2);
        assert_eq!(Error::non_finite("x").exit_code(), 3);
    }

    #[test]
    fn a_missing_file_is_named_with_the_reason() {
        let path = Path::new("/no/such/file");
        let error = Error::cannot_read("config", path, &std::fs::read(path).unwrap_err());
        assert_eq!(error.message(), "cannot read config /no/such/file: no such file or directory");
    }
}

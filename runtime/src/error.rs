//! Errors of the runtime.

use std::fmt;
use std::path::PathBuf;

use lmc_graph::TensorType;

use crate::pjrt::profiler::PROFILER_EXTENSION;

/// The codes of PJRT's errors, which are those of `absl::Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub enum ErrorCode {
    /// The operation was cancelled.
    Cancelled,
    /// An error without a better code, or with a number that this list does not have.
    Unknown,
    /// An argument is wrong: most mistakes in programs and options.
    InvalidArgument,
    /// It took too long.
    DeadlineExceeded,
    /// Something named does not exist.
    NotFound,
    /// Something to be created exists.
    AlreadyExists,
    /// Not allowed.
    PermissionDenied,
    /// Out of memory.
    ResourceExhausted,
    /// The state of an object does not allow this, such as reading a donated buffer.
    FailedPrecondition,
    /// Given up.
    Aborted,
    /// Out of range.
    OutOfRange,
    /// The plugin does not support this.
    Unimplemented,
    /// A mistake inside XLA.
    Internal,
    /// Not available now.
    Unavailable,
    /// Data were lost or are corrupt.
    DataLoss,
    /// Not authenticated.
    Unauthenticated,
}

impl ErrorCode {
    /// The code with this number in the C API.
    pub(crate) fn from_number(number: i32) -> ErrorCode {
        match number {
            1 => ErrorCode::Cancelled,
            3 => ErrorCode::InvalidArgument,
            4 => ErrorCode::DeadlineExceeded,
            5 => ErrorCode::NotFound,
            6 => ErrorCode::AlreadyExists,
            7 => ErrorCode::PermissionDenied,
            8 => ErrorCode::ResourceExhausted,
            9 => ErrorCode::FailedPrecondition,
            10 => ErrorCode::Aborted,
            11 => ErrorCode::OutOfRange,
            12 => ErrorCode::Unimplemented,
            13 => ErrorCode::Internal,
            14 => ErrorCode::Unavailable,
            15 => ErrorCode::DataLoss,
            16 => ErrorCode::Unauthenticated,
            _ => ErrorCode::Unknown,
        }
    }

    /// The words for it in a message.
    fn words(self) -> &'static str {
        match self {
            ErrorCode::Cancelled => "cancelled",
            ErrorCode::Unknown => "unknown error",
            ErrorCode::InvalidArgument => "invalid argument",
            ErrorCode::DeadlineExceeded => "deadline exceeded",
            ErrorCode::NotFound => "not found",
            ErrorCode::AlreadyExists => "already exists",
            ErrorCode::PermissionDenied => "permission denied",
            ErrorCode::ResourceExhausted => "out of memory",
            ErrorCode::FailedPrecondition => "failed precondition",
            ErrorCode::Aborted => "aborted",
            ErrorCode::OutOfRange => "out of range",
            ErrorCode::Unimplemented => "not implemented",
            ErrorCode::Internal => "internal error of XLA",
            ErrorCode::Unavailable => "unavailable",
            ErrorCode::DataLoss => "data loss",
            ErrorCode::Unauthenticated => "unauthenticated",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// An error that the plugin returned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{function}: {code}: {message}")]
pub struct PjrtError {
    /// The function of the C API that failed.
    pub function: &'static str,
    /// The plugin's code.
    pub code: ErrorCode,
    /// The plugin's message.
    pub message: String,
}

/// An error of a client, a buffer or an executable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plugin failed.
    #[error(transparent)]
    Pjrt(#[from] PjrtError),
    /// XLA refused a program.
    #[error("XLA cannot compile `{module}` ({}): {}{}", error.code, error.message, at(location))]
    Compile {
        /// The name of the module.
        module: String,
        /// What XLA says.
        error: PjrtError,
        /// The location of the op in question, as the program's `loc(..)` gives it, when XLA's message points to a
        /// line of the program.
        location: Option<String>,
    },
    /// A program text without a readable `@main`.
    #[error("the program has no readable signature of @main: {0}")]
    Signature(String),
    /// A wrong number of arguments.
    #[error("`{program}` takes {expected} arguments, found {found}")]
    ArgumentCount {
        /// The name of the program.
        program: String,
        /// What it takes.
        expected: usize,
        /// What it was given.
        found: usize,
    },
    /// An argument of the wrong type.
    #[error("argument {index} of `{program}` is {expected}, found {found}")]
    ArgumentType {
        /// The name of the program.
        program: String,
        /// The position of the argument, from 0.
        index: usize,
        /// The program's type.
        expected: TensorType,
        /// The buffer's type.
        found: TensorType,
    },
    /// An argument that lives with another client.
    #[error("argument {index} of `{program}` is a buffer of another client; copy it through the host")]
    ArgumentClient {
        /// The name of the program.
        program: String,
        /// The position of the argument, from 0.
        index: usize,
    },
    /// A number of bytes that does not fit the type.
    #[error("{ty} takes {} bytes, found {found}", ty.num_bytes())]
    ByteCount {
        /// The type asked for.
        ty: TensorType,
        /// The number of bytes given.
        found: usize,
    },
    /// A device that the client does not have.
    #[error("there is no device {index}: the client has {count}, counted from 0")]
    NoDevice {
        /// The device asked for.
        index: usize,
        /// How many the client has.
        count: usize,
    },
    /// An element type that lmc does not know.
    #[error("the plugin has a buffer of type number {number} (PJRT_Buffer_Type), which lmc does not know")]
    ElementType {
        /// Its number in `PJRT_Buffer_Type`.
        number: i32,
    },
    /// A file that cannot be read or written.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was to be done, such as "cannot read".
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// XLA wrote no optimized program.
    #[error("XLA wrote no optimized program for `{module}` into {}", dir.display())]
    NoDump {
        /// The name of the module.
        module: String,
        /// The folder it was told to write to.
        dir: PathBuf,
    },
    /// A plugin that cannot record what its devices do.
    #[error(
        "the plugin {} has no profiler that lmc knows: expected the extension {PROFILER_EXTENSION} of PJRT \
         (PJRT_Extension_Type_Profiler), found {found}", plugin.display()
    )]
    NoProfiler {
        /// The plugin.
        plugin: PathBuf,
        /// What it has instead.
        found: String,
    },
    /// A recording while another goes on.
    #[error("a profiler records already in this process, and plugins know one at a time")]
    ProfilerRuns,
}

impl Error {
    /// The plugin's code, if it was the plugin that failed.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Error::Pjrt(error) | Error::Compile { error, .. } => Some(error.code),
            Error::Signature(_)
            | Error::ArgumentCount { .. }
            | Error::ArgumentType { .. }
            | Error::ArgumentClient { .. }
            | Error::ByteCount { .. }
            | Error::NoDevice { .. }
            | Error::ElementType { .. }
            | Error::File { .. }
            | Error::NoDump { .. }
            | Error::NoProfiler { .. }
            | Error::ProfilerRuns => None,
        }
    }
}

/// The end of a compile error's message.
fn at(location: &Option<String>) -> String {
    location.as_ref().map_or_else(String::new, |location| format!("\n  at {location}"))
}

/// The result of most functions here.
pub type Result<T> = std::result::Result<T, Error>;

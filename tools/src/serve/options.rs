//! How the server is set up.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// How the server is set up.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where to listen; port 0 lets the system choose one.
    pub address: SocketAddr,
    /// What requests must carry, but for `/health`. Needed where other machines can reach the address.
    pub token: Option<BearerToken>,
    /// Texts that may wait for a slot; more are refused with status 429.
    pub queue: usize,
    /// The time from a request to the end of its answer.
    pub time_limit: Duration,
    /// Connections at once; more wait until one ends.
    pub connections: usize,
    /// The time in which the head of a request must arrive, from the connection or the end of the answer before it on.
    pub header_time: Duration,
    /// The time that a client may read nothing of what is written to it.
    pub write_time: Duration,
    /// The time in which the body of a request must arrive.
    pub body_time: Duration,
    /// Bytes that the body of a request may have.
    pub most_body_bytes: usize,
    /// The time that requests have to be finished when the server ends.
    pub drain_time: Duration,
}

/// A secret that requests carry. Only its hash is kept, so that comparing takes the same time whatever is sent, and that
/// no message shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerToken([u8; 32]);

impl BearerToken {
    /// A token; white space around it is no part of it.
    ///
    /// # Errors
    /// If it is empty, or has what no header may have.
    pub fn new(token: &str) -> Result<BearerToken> {
        let token = token.trim();
        if token.is_empty() {
            return Err(Error::input("the bearer token is empty"));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::input("the bearer token has characters beside letters, digits and marks of ASCII"));
        }
        Ok(BearerToken(Sha256::digest(token).into()))
    }

    /// Whether `sent` is the token.
    pub(super) fn is(&self, sent: &[u8]) -> bool {
        self.0 == <[u8; 32]>::from(Sha256::digest(sent))
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken")
    }
}

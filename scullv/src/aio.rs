//! Asynchronous requests, as the original has them: done at once, reported a little later.
//!
//! The bytes are moved in the call, while the caller's memory can be reached. What comes
//! later is the report: the embedder keeps the [`Completion`] for [`REPORT_NS`] and then
//! hands it to whoever waits for the request. Where it cannot keep one, the result is
//! returned at once.
//!
//! Source: LDD3's scullv, which reports from delayed work, a hundredth of a second later
//! (`-EIOCBQUEUED`); a synchronous request (`is_sync_kiocb`) is an ordinary read or write.

use crate::error::Error;
use crate::file::File;
use crate::user::User;
use vmalloc::lock_api::RawRwLock;
use vmalloc::machine::Addressable;

/// Nanoseconds from a request to its report.
pub const REPORT_NS: u64 = 10_000_000;

/// Which way the bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transfer {
    /// From the device.
    Read,
    /// To the device.
    Write,
}

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What the caller knows it by.
    pub token: u64,
    /// Which way the bytes go.
    pub transfer: Transfer,
    /// Where in the device; the file's own position stays as it is.
    pub position: u64,
    /// Where in the caller's memory.
    pub address: usize,
    /// Bytes at most.
    pub count: usize,
}

/// What came of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The request's token.
    pub token: u64,
    /// Bytes moved, or why none were.
    pub result: Result<usize, Error>,
}

/// Who keeps completions until they are reported: a kernel's delayed work.
pub trait Later {
    /// Keeps `completion`, and reports it after `after_ns` nanoseconds; false = it cannot.
    fn keep(&mut self, completion: Completion, after_ns: u64) -> bool;
}

/// How a request was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Submitted {
    /// It is reported later (`-EIOCBQUEUED`).
    Queued,
    /// Nobody keeps the report: this is what came of it.
    Done(Result<usize, Error>),
}

impl<M: Addressable, R: RawRwLock> File<'_, '_, M, R> {
    /// Does `request` at once, and lets `later` report what came of it, an error too.
    pub fn submit(&self, request: &Request, user: &mut impl User, later: &mut impl Later) -> Submitted {
        let &Request { token, transfer, position, address, count } = request;
        let result = match transfer {
            Transfer::Read => self.read_at(position, user, address, count),
            Transfer::Write => self.write_at(position, user, address, count),
        };
        match later.keep(Completion { token, result }, REPORT_NS) {
            true => Submitted::Queued,
            false => Submitted::Done(result),
        }
    }
}

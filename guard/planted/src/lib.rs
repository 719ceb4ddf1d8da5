//! Programs with one bug each, and what counts which of them a tool finds.
//!
//! ```text
//!   planted.c, bin/planted   the programs: planted KIND SIZE WAY
//!   compile                  makes the first of them
//!   tool                     runs one under a tool, and hears what it says
//!   tally                    counts, and tells
//! ```
//!
//! A bug is **found** if the program dies of it and the tool names its kind; a program that merely
//! dies, as one does whose heap is ruined, has found nothing. In a program without a bug nothing
//! may be found, and it must end as it would have.

mod compile;
pub mod tally;
pub mod tool;

pub use compile::compile;
use serde::Serialize;
use std::path::PathBuf;

/// What is done wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Writes past the end, up to the guard.
    OverrunWrite,
    /// Reads past the end, up to the guard.
    OverrunRead,
    /// Writes before the start, up to the guard.
    Underrun,
    /// Reads after the free.
    UseAfterFree,
    /// Frees twice.
    DoubleFree,
    /// Frees what is no start of an allocation.
    InvalidFree,
    /// Writes a byte past the end, and frees.
    Canary,
    /// Does everything right.
    None,
}

/// How it comes to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// In one thread.
    Plain,
    /// In another thread than the one that allocated.
    Thread,
    /// In a child of the process that allocated.
    Fork,
    /// With what realloc has made or freed.
    Realloc,
}

/// Sizes from a byte to a MiB: less than a page, pages, and a little more.
pub const SIZES: [usize; 9] = [1, 7, 16, 100, 512, 4096, 5000, 65_536, 1 << 20];

impl Kind {
    /// All of them; the correct program last.
    pub const ALL: [Kind; 8] = [
        Kind::OverrunWrite,
        Kind::OverrunRead,
        Kind::Underrun,
        Kind::UseAfterFree,
        Kind::DoubleFree,
        Kind::InvalidFree,
        Kind::Canary,
        Kind::None,
    ];

    /// The word that the programs have for it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::OverrunWrite => "overrun-write",
            Kind::OverrunRead => "overrun-read",
            Kind::Underrun => "underrun",
            Kind::UseAfterFree => "use-after-free",
            Kind::DoubleFree => "double-free",
            Kind::InvalidFree => "invalid-free",
            Kind::Canary => "canary",
            Kind::None => "none",
        }
    }

    /// What a report may call it. A byte past the end lies in the guard if the allocation ends
    /// with its page, and then it is an overrun.
    pub fn reported(self) -> &'static [&'static str] {
        match self {
            Kind::OverrunWrite | Kind::OverrunRead => &["overrun"],
            Kind::Underrun => &["underrun"],
            Kind::UseAfterFree => &["use-after-free"],
            Kind::DoubleFree => &["double-free"],
            Kind::InvalidFree => &["invalid-free"],
            Kind::Canary => &["canary", "overrun"],
            Kind::None => &[],
        }
    }
}

impl Way {
    /// All of them.
    pub const ALL: [Way; 4] = [Way::Plain, Way::Thread, Way::Fork, Way::Realloc];

    /// The word that the programs have for it.
    pub fn word(self) -> &'static str {
        match self {
            Way::Plain => "plain",
            Way::Thread => "thread",
            Way::Fork => "fork",
            Way::Realloc => "realloc",
        }
    }
}

/// A program that takes KIND SIZE WAY.
#[derive(Clone, Debug)]
pub struct Program {
    /// What it is written in.
    pub language: &'static str,
    /// The file.
    pub path: PathBuf,
}

/// One run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Case {
    /// The language of the program.
    pub language: &'static str,
    /// What is done wrong.
    pub kind: Kind,
    /// Bytes of the allocation.
    pub size: usize,
    /// How it comes to it.
    pub way: Way,
}

/// Every kind in every way with every size.
pub fn cases(language: &'static str, sizes: &[usize]) -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in Kind::ALL {
        for way in Way::ALL {
            cases.extend(sizes.iter().map(|&size| Case { language, kind, size, way }));
        }
    }
    cases
}

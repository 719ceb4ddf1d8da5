//! A command's words, and what can be wrong with them or with the command.

use crate::replay::NoReplay;
use crate::trap::Fault;
use crate::vm;
use core::fmt;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use vmalloc::error::{AllocError, FreeError};
use vmalloc_kernel::kmemleak::CommandError;
use vmalloc_kernel::layout::LayoutError;

/// The words of a line, one after the other.
pub struct Words<'t>(&'t str);

/// Why a command failed.
pub enum Complaint<'t> {
    /// A word is missing: the question that it would answer.
    Missing(&'static str),
    /// A word is no number; the question that it should answer.
    NoNumber(&'static str, &'t str),
    /// A word means nothing here.
    Unknown(&'t str),
    /// The library made nothing.
    NotMade(AllocError),
    /// The library gave nothing back.
    NotFreed(FreeError),
    /// An access faulted.
    Fault(Fault),
    /// No live area has this address.
    NoArea(usize),
    /// The area has no memory that may be written as a whole.
    NoMemory(usize),
    /// Words differ from what was written: how many, and the first.
    Differs(usize, usize),
    /// No such address is ever mapped.
    NotCanonical(usize),
    /// A device refused.
    Refused(vmalloc_scullv::Error),
    /// Kernels have no layout for this machine.
    NoLayout(LayoutError),
    /// The leak detector takes no such command.
    NoScan(CommandError),
    /// Nothing was played.
    NoReplay(NoReplay),
    /// What went wrong has been printed.
    Said,
    /// Nothing is wrong: it is over.
    PowerOff,
}

impl<'t> Words<'t> {
    /// The words of `line`.
    pub fn of(line: &'t str) -> Words<'t> {
        Words(line.trim())
    }

    /// The next word.
    pub fn next(&mut self) -> Option<&'t str> {
        let (word, rest) = self.0.split_once(' ').unwrap_or((self.0, ""));
        self.0 = rest.trim_start();
        (!word.is_empty()).then_some(word)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'t str {
        core::mem::take(&mut self.0)
    }

    /// There may be no more.
    pub fn end(&mut self) -> Result<(), Complaint<'t>> {
        self.next().map_or(Ok(()), |word| Err(Complaint::Unknown(word)))
    }

    /// A number, which answers `question`.
    pub fn number(&mut self, question: &'static str) -> Result<usize, Complaint<'t>> {
        let word = self.next().ok_or(Complaint::Missing(question))?;
        number(word).ok_or(Complaint::NoNumber(question, word))
    }

    /// A number, if there is a word for it.
    pub fn number_or(&mut self, default: usize, question: &'static str) -> Result<usize, Complaint<'t>> {
        if self.0.is_empty() { Ok(default) } else { self.number(question) }
    }

    /// The address of an area.
    pub fn area(&mut self) -> Result<NonNull<u8>, Complaint<'t>> {
        let at = self.number("at what address")?;
        NonNull::new(with_exposed_provenance_mut(at)).ok_or(Complaint::NoArea(at))
    }
}

/// The start of the area that was made last.
static LAST: AtomicUsize = AtomicUsize::new(0);

/// From now on `$` is `at`.
pub fn remember(at: usize) {
    LAST.store(at, Relaxed);
}

/// `4096`, `0x1000`, `4K`, `$`; or a sum of two of these.
fn number(word: &str) -> Option<usize> {
    match word.split_once('+') {
        Some((a, b)) => term(a)?.checked_add(term(b)?),
        None => term(word),
    }
}

fn term(word: &str) -> Option<usize> {
    if word == "$" {
        return Some(LAST.load(Relaxed));
    }
    let (digits, shift) = match word.as_bytes().last()? {
        b'k' | b'K' => (&word[..word.len() - 1], 10),
        b'm' | b'M' => (&word[..word.len() - 1], 20),
        b'g' | b'G' => (&word[..word.len() - 1], 30),
        _ => (word, 0),
    };
    let number = match digits.strip_prefix("0x") {
        Some(digits) => usize::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    number.ok().filter(|&number| number <= usize::MAX >> shift).map(|number| number << shift)
}

impl Complaint<'_> {
    /// Whether the command's words are to be shown.
    pub fn is_about_words(&self) -> bool {
        matches!(self, Complaint::Missing(_) | Complaint::NoNumber(..) | Complaint::Unknown(_))
    }
}

impl From<AllocError> for Complaint<'_> {
    fn from(why: AllocError) -> Self {
        Complaint::NotMade(why)
    }
}

impl From<FreeError> for Complaint<'_> {
    fn from(why: FreeError) -> Self {
        Complaint::NotFreed(why)
    }
}

impl From<vmalloc_scullv::Error> for Complaint<'_> {
    fn from(why: vmalloc_scullv::Error) -> Self {
        Complaint::Refused(why)
    }
}

impl From<Fault> for Complaint<'_> {
    fn from(why: Fault) -> Self {
        Complaint::Fault(why)
    }
}

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Complaint::Missing(question) => write!(f, "{question}?"),
            Complaint::NoNumber(question, word) => write!(f, "{question}? {word} is no number"),
            Complaint::Unknown(word) => write!(f, "{word} means nothing here"),
            Complaint::NotMade(why) => why.fmt(f),
            Complaint::NotFreed(why) => why.fmt(f),
            Complaint::Fault(fault) => write!(f, "page fault at {:#x}, which is {}", fault.at, vm().whatis(fault.at)),
            Complaint::NoArea(at) => {
                write!(f, "{at:#x} is in no live area: it is {}; vmallocinfo lists them", vm().whatis(*at))
            }
            Complaint::NoMemory(at) => {
                write!(f, "the area at {at:#x} is a device, or addresses alone; poke writes single words")
            }
            Complaint::Differs(count, first) => {
                write!(f, "{count} words are not what was written there, the first at {first:#x}")
            }
            Complaint::NotCanonical(at) => write!(f, "{at:#x} is not canonical: no table leads there"),
            Complaint::Refused(why) => why.fmt(f),
            Complaint::NoLayout(why) => why.fmt(f),
            Complaint::NoScan(why) => why.fmt(f),
            Complaint::NoReplay(why) => why.fmt(f),
            Complaint::Said | Complaint::PowerOff => Ok(()),
        }
    }
}

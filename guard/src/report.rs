//! Reports: as text on stderr, or as JSON in a file, one object after another.
//!
//! A report is written whole, in a copy of the process that can find symbols. Where that fails, it is
//! written again by the process itself, with addresses alone. It is written in any case, once.
//!
//! # Rules
//! - **R1** While a thread writes, none of its signals is delivered, and no call ends it: its handlers might
//!   fail as well, or jump away. The signals of writes that fail are forgotten.
//! - **R2** What goes wrong in the middle of a report has no report.

use crate::engine::Engine;
use crate::finding::{Access, Finding};
use crate::leaks::Leaks;
use crate::os::{self, Mask};
use crate::process;
use crate::settings::Path;
use crate::symbols::{Frame, Symbols};
use crate::trace::{Registers, Trace};
use crate::{copy, here, json, stderr, text};
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_int};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};
use libc::{SIGPIPE, SIGXFSZ};

/// The reports of a process: a program whose own handler goes on after a fault may have many.
const MOST: u32 = 16;

/// The thread that writes; 0 = none.
static WRITER: AtomicUsize = AtomicUsize::new(0);
static WRITTEN: AtomicU32 = AtomicU32::new(0);
/// What a write that fails sends.
const OF_WRITES: [c_int; 2] = [SIGPIPE, SIGXFSZ];

/// Where text and JSON go, and what they ask.
pub struct Story<'a> {
    /// What is written.
    pub out: &'a mut dyn Write,
    /// What the allocations are known by.
    pub engine: &'a Engine,
    /// Absent where there is no heap.
    pub symbols: Option<&'a mut Symbols>,
    /// The process's number.
    pub process: u32,
}

impl Story<'_> {
    /// Calls `f` with each frame of a trace.
    pub fn frames(
        &mut self,
        trace: &Trace,
        is_exact: bool,
        f: &mut dyn FnMut(&mut dyn Write, usize, &Frame) -> fmt::Result,
    ) -> fmt::Result {
        match &mut self.symbols {
            Some(symbols) => {
                let frames = symbols.frames(trace.frames(), is_exact);
                frames.iter().enumerate().try_for_each(|(n, frame)| f(self.out, n, frame))
            }
            None => {
                let mut plain = trace.frames().iter().map(|&address| Frame { address, ..Frame::default() }).enumerate();
                plain.try_for_each(|(n, frame)| f(self.out, n, &frame))
            }
        }
    }
}

/// What a report is about.
pub enum Subject<'a> {
    /// A bug.
    Finding(&'a Finding),
    /// An access that faulted.
    Fault(Fault),
    /// What is left at the exit.
    Leaks,
}

impl Subject<'_> {
    /// Where its text goes.
    fn stderr(&self) -> c_int {
        match self {
            Subject::Leaks => stderr::first(),
            Subject::Finding(_) | Subject::Fault(_) => stderr::now(),
        }
    }
}

/// An access that faulted: what cannot be found out later.
#[derive(Clone, Copy)]
pub struct Fault {
    at: usize,
    access: Access,
    by: Registers,
    thread: u32,
    now: u64,
}

impl Fault {
    /// Of this thread, now.
    pub fn new(at: usize, access: Access, by: Registers) -> Fault {
        Fault { at, access, by, thread: here::thread(), now: os::now_ms() }
    }

    /// Whether it is the last one that was told, met again: a handler that puts the default in its own place and
    /// returns meets it twice.
    fn is_last(&self) -> bool {
        static LAST: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];
        let now = [self.at, self.by.pc, self.thread as usize];
        LAST.iter().zip(now).fold(true, |is_same, (last, now)| (last.swap(now, Relaxed) == now) & is_same)
    }

    fn finding(&self, engine: &Engine) -> Option<Finding> {
        let found = Finding::fault(engine, self.at, self.access, self.by)?;
        Some(Finding { thread: self.thread, now: self.now, ..found })
    }
}

/// Reports what is wrong.
pub fn tell(finding: &Finding) {
    if WRITTEN.fetch_add(1, Relaxed) < MOST {
        write(&Subject::Finding(finding));
    }
}

/// Reports an access that faulted, if it belongs to an allocation.
pub fn tell_fault(fault: Fault) {
    if !fault.is_last() && WRITTEN.fetch_add(1, Relaxed) < MOST {
        write(&Subject::Fault(fault));
    }
}

/// Writes a report. Another thread that has failed as well waits until it is written.
pub fn write(subject: &Subject<'_>) {
    let Some(engine) = process::engine() else { return };
    let (was, cancel, waiting) = (Mask::block_all(), os::set_cancel(os::CANCEL_DISABLE), Mask::waiting());
    if begin() {
        let process = os::process();
        if !copy::run(&|| with_symbols(subject, engine, process)) {
            plainly(subject, engine, process);
        }
        WRITER.store(0, Release);
    }
    OF_WRITES.into_iter().filter(|&signal| !waiting.has(signal)).for_each(os::forget_signal);
    os::set_cancel(cancel);
    was.set();
}

/// False in the thread that writes already (R2).
fn begin() -> bool {
    let own = here::place();
    while let Err(writer) = WRITER.compare_exchange(0, own, Acquire, Relaxed) {
        if writer == own {
            return false;
        }
        os::yield_now();
    }
    true
}

/// In the child of a fork: nobody writes, and nothing was written.
pub fn inherit() {
    WRITER.store(0, Relaxed);
    WRITTEN.store(0, Relaxed);
}

/// In the copy. Where the file takes nothing, stderr may.
#[cold]
#[inline(never)]
fn with_symbols(subject: &Subject<'_>, engine: &Engine, process: u32) {
    let mut symbols = Symbols::new();
    let mut told = |is_json| {
        let mut text = String::new();
        let mut story = Story { out: &mut text, engine, symbols: Some(&mut symbols), process };
        // A string takes everything.
        let _ = tell_all(subject, &mut story, is_json);
        text
    };
    let file = open(engine.settings.report, process);
    if !file.is_some_and(|file| os::write(file, told(true).as_bytes())) {
        os::write(subject.stderr(), told(false).as_bytes());
    }
}

/// In the process itself, without a heap, and with little stack.
#[cold]
#[inline(never)]
fn plainly(subject: &Subject<'_>, engine: &Engine, process: u32) {
    let file = open(engine.settings.report, process);
    // SAFETY: whoever is WRITING has it alone.
    let bytes = unsafe { &mut *ROOM.0.get() };
    let mut out = Out { file: file.unwrap_or_else(|| subject.stderr()), bytes, len: 0 };
    let mut story = Story { out: &mut out, engine, symbols: None, process };
    let _ = tell_all(subject, &mut story, file.is_some());
    out.flush();
    // SAFETY: opened here.
    file.into_iter().for_each(|file| _ = unsafe { libc::close(file) });
}

/// Room for text and for names of files, one after the other.
struct Room(UnsafeCell<[u8; 4096]>);

// SAFETY: used by the one that is WRITING.
unsafe impl Sync for Room {}

static ROOM: Room = Room(UnsafeCell::new([0; 4096]));

fn tell_all(subject: &Subject<'_>, story: &mut Story<'_>, is_json: bool) -> fmt::Result {
    match subject {
        Subject::Finding(finding) if is_json => json::finding(story, finding),
        Subject::Finding(finding) => text::finding(story, finding),
        Subject::Fault(fault) => match fault.finding(story.engine) {
            Some(finding) => tell_all(&Subject::Finding(&finding), story, is_json),
            None => Ok(()),
        },
        Subject::Leaks if is_json => json::leaks(story, &Leaks::count(story.engine)),
        Subject::Leaks => text::leaks(story, &Leaks::count(story.engine)),
    }
}

/// Text on its way to a file.
struct Out<'r> {
    file: c_int,
    bytes: &'r mut [u8; 4096],
    len: usize,
}

impl Out<'_> {
    fn flush(&mut self) {
        os::write(self.file, &self.bytes[..self.len]);
        self.len = 0;
    }
}

impl Write for Out<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.as_bytes().chunks(self.bytes.len()) {
            if self.len + part.len() > self.bytes.len() {
                self.flush();
            }
            self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
            self.len += part.len();
        }
        Ok(())
    }
}

/// The file for reports, at its end.
fn open(path: Option<Path>, process: u32) -> Option<c_int> {
    // SAFETY: whoever is WRITING has it alone.
    let mut name = Name { bytes: unsafe { &mut *ROOM.0.get() }, len: 0 };
    name.fill(path?, process).ok()?;
    // SAFETY: the name ends with a zero.
    os::open_end(unsafe { CStr::from_bytes_with_nul_unchecked(&name.bytes[..name.len]) })
}

/// A path with the process's number in place of `%p`.
struct Name<'r> {
    bytes: &'r mut [u8; 4096],
    len: usize,
}

impl Name<'_> {
    fn fill(&mut self, path: &CStr, process: u32) -> fmt::Result {
        let mut rest = path.to_bytes();
        while let [first, others @ ..] = rest {
            rest = match rest {
                [b'%', b'p', others @ ..] => {
                    write!(self, "{process}")?;
                    others
                }
                _ => {
                    self.push(&[*first])?;
                    others
                }
            };
        }
        self.push(&[0])
    }

    fn push(&mut self, bytes: &[u8]) -> fmt::Result {
        let place = self.bytes.get_mut(self.len..self.len + bytes.len()).ok_or(fmt::Error)?;
        place.copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }
}

impl Write for Name<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_the_process_stands_for_its_sign() {
        let mut name = Name { bytes: &mut [0; 4096], len: 0 };
        name.fill(c"/tmp/a-%p%q.json", 71).expect("short enough");
        assert_eq!(&name.bytes[..name.len], b"/tmp/a-71%q.json\0");
    }
}

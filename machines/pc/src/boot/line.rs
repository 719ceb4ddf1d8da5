//! The command line: settings, then commands.
//!
//! ```text
//!   policy=strict region=64M -- mem; vmalloc 100000; tests
//!   └───── settings ───────┘    └────── commands ───────┘
//! ```
//!
//! Without ` -- ` the shell reads commands from the serial line. `-- @script`
//! takes them from the module, a command a line.

use core::str;
use vmalloc::Policy;
use vmalloc::area::Placement;

/// Bytes of a command line at most.
const MAX: usize = 4096;

/// A command line, copied.
#[derive(Clone)]
pub struct Line {
    bytes: [u8; MAX],
    len: usize,
}

impl Line {
    /// Nothing was said.
    pub const EMPTY: Line = Line { bytes: [0; MAX], len: 0 };

    /// Copies the zero-terminated text at `at`; what is too long is cut.
    ///
    /// # Safety
    /// There is one, or `at` is 0.
    pub unsafe fn copy(at: u64) -> Line {
        let mut line = Line::EMPTY;
        let text = at as *const u8;
        while !text.is_null() && line.len < MAX {
            // SAFETY: the caller's, up to the zero.
            let byte = unsafe { *text.add(line.len) };
            if byte == 0 {
                break;
            }
            line.bytes[line.len] = byte;
            line.len += 1;
        }
        line
    }

    /// All of it.
    pub fn text(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).unwrap_or("")
    }

    /// The commands, if there are any.
    pub fn commands(&self) -> Option<&str> {
        self.halves().1
    }

    fn halves(&self) -> (&str, Option<&str>) {
        let text = self.text().trim();
        match text.strip_prefix("-- ").map(|commands| ("", commands)).or_else(|| text.split_once(" -- ")) {
            Some((settings, commands)) => (settings, Some(commands)),
            None => (text, None),
        }
    }

    /// The value of a setting.
    fn value(&self, name: &str) -> Option<&str> {
        let words = self.halves().0.split_whitespace();
        words.filter_map(|word| word.split_once('=')).filter(|pair| pair.0 == name).map(|pair| pair.1).next_back()
    }
}

/// How CPUs discard translations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushBy {
    /// As the CPU can.
    Best,
    /// Not at all: for the test that has to notice.
    Nothing,
}

/// What the command line may set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `policy=unmap|strict|park|keep`: what a free does.
    pub policy: Policy,
    /// `placement=classes|lowest`: where areas go.
    pub placement: Placement,
    /// `region=64M`: bytes of the vmalloc region.
    pub region: Option<usize>,
    /// `load=8192`: pages that are flushed together, twice as many may wait.
    pub load: Option<usize>,
    /// `flush=best|none`: how CPUs discard translations.
    pub flush: FlushBy,
    /// `tick=4000000`: nanoseconds between two ticks; 0 = none.
    pub tick: u32,
    /// `stress=30`: seconds that the stress among the tests takes.
    pub stress: u32,
}

/// 250 ticks a second.
const TICK: u32 = 4_000_000;
const STRESS: u32 = 2;

/// What the command line sets. A word that is not understood ends the image:
/// a test must not run with other settings than its author thinks.
pub fn settings() -> Settings {
    let line = super::line();
    Settings {
        policy: line.value("policy").map_or(Policy::Unmap, |value| understood(policy(value), value)),
        placement: line.value("placement").map_or(Placement::Classes, |value| understood(placement(value), value)),
        region: line.value("region").map(|value| understood(size(value), value)),
        load: line.value("load").map(|value| understood(value.parse().ok(), value)),
        flush: line.value("flush").map_or(FlushBy::Best, |value| understood(flush(value), value)),
        tick: line.value("tick").map_or(TICK, |value| understood(value.parse().ok(), value)),
        stress: line.value("stress").map_or(STRESS, |value| understood(value.parse().ok(), value)),
    }
}

fn understood<T>(meaning: Option<T>, word: &str) -> T {
    meaning.unwrap_or_else(|| panic!("a setting that is not understood: {word}"))
}

/// The policy of this name.
pub fn policy(name: &str) -> Option<Policy> {
    match name {
        "unmap" => Some(Policy::Unmap),
        "strict" => Some(Policy::Strict),
        "park" => Some(Policy::Park),
        "keep" => Some(Policy::Keep),
        _ => None,
    }
}

fn placement(name: &str) -> Option<Placement> {
    match name {
        "classes" => Some(Placement::Classes),
        "lowest" => Some(Placement::Lowest),
        _ => None,
    }
}

fn flush(name: &str) -> Option<FlushBy> {
    match name {
        "best" => Some(FlushBy::Best),
        "none" => Some(FlushBy::Nothing),
        _ => None,
    }
}

/// A number of bytes: `4096`, `64K`, `16M`, `2G`.
pub fn size(text: &str) -> Option<usize> {
    let shift = match text.as_bytes().last()? {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        _ => 0,
    };
    let digits = if shift == 0 { text } else { &text[..text.len() - 1] };
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}

//! The command line: settings, then commands.
//!
//! ```text
//!   policy=strict region=64M -- mem; vmalloc 100000; tests
//!   └───── settings ───────┘    └────── commands ───────┘
//! ```
//!
//! Without ` -- ` the shell reads commands from the serial line. `-- @script`
//! takes them from the module, a command a line.
//!
//! What is not understood ends the image: a test must not run with other settings than its
//! author thinks.

use core::{fmt, str};
use vmalloc::Policy;
use vmalloc::area::Placement;
use vmalloc_kernel::kmemleak::Boot;

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

    /// Copies the zero-terminated text at `at`; what is too long is cut, and
    /// [`settings`](Line::settings) refuses it.
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

    /// All of it; nothing if it is no text, which [`settings`](Line::settings) refuses.
    pub fn text(&self) -> &str {
        str::from_utf8(self.bytes()).unwrap_or("")
    }

    /// The commands, if there are any.
    pub fn commands(&self) -> Option<&str> {
        self.halves().1
    }

    /// What it sets; the last word of a name counts.
    pub fn settings(&self) -> Result<Settings, Unclear<'_>> {
        if self.len == MAX {
            return Err(Unclear::TooLong);
        }
        if let Err(why) = str::from_utf8(self.bytes()) {
            return Err(Unclear::NoText(&self.bytes()[why.valid_up_to()..]));
        }
        let mut settings = Settings::DEFAULT;
        let mut words = self.halves().0.split_whitespace();
        words.try_for_each(|word| settings.set(word).ok_or(Unclear::Word(word)))?;
        Ok(settings)
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn halves(&self) -> (&str, Option<&str>) {
        let text = self.text().trim();
        match text.strip_prefix("-- ").map(|commands| ("", commands)).or_else(|| text.split_once(" -- ")) {
            Some((settings, commands)) => (settings, Some(commands)),
            None => (text, None),
        }
    }
}

/// Why a line is not obeyed.
pub enum Unclear<'t> {
    /// It has as many bytes as are copied, or more.
    TooLong,
    /// These bytes and what follows them are no UTF-8.
    NoText(&'t [u8]),
    /// A setting that there is not, or a value that it cannot have.
    Word(&'t str),
}

impl fmt::Display for Unclear<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unclear::TooLong => write!(f, "{MAX} bytes or more, the image takes fewer"),
            Unclear::NoText(from) => write!(f, "not UTF-8 from here on: {}", from.escape_ascii()),
            Unclear::Word(word) => write!(f, "{word:?} is no setting; there are: {KNOWN}"),
        }
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
    /// `pge=on|off`: whether CPUs that have global pages use them.
    pub global_pages: bool,
    /// `kmemleak=on|off`: the leak detector from the boot on, or never; none = from its first command on.
    pub kmemleak: Option<Boot>,
    /// `tick=4000000`: nanoseconds between two ticks; 0 = none.
    pub tick: u32,
    /// `stress=30`: seconds that the stress among the tests takes.
    pub stress: u32,
}

/// All that [`Settings::set`] understands.
const KNOWN: &str = "policy=unmap|strict|park|keep placement=classes|lowest region=64M load=8192 flush=best|none \
                     pge=on|off kmemleak=on|off tick=4000000 stress=30";

impl Settings {
    /// What holds where nothing is said: 250 ticks a second.
    pub const DEFAULT: Settings = Settings {
        policy: Policy::Unmap,
        placement: Placement::Classes,
        region: None,
        load: None,
        flush: FlushBy::Best,
        global_pages: true,
        kmemleak: None,
        tick: 4_000_000,
        stress: 2,
    };

    /// Sets what `word` says, or nothing if that is not understood.
    fn set(&mut self, word: &str) -> Option<()> {
        let (name, value) = word.split_once('=')?;
        match name {
            "policy" => self.policy = policy(value)?,
            "placement" => self.placement = placement(value)?,
            "region" => self.region = Some(size(value)?),
            "load" => self.load = Some(value.parse().ok()?),
            "flush" => self.flush = flush(value)?,
            "pge" => self.global_pages = switch(value)?,
            "kmemleak" => self.kmemleak = Some(value.parse().ok()?),
            "tick" => self.tick = value.parse().ok()?,
            "stress" => self.stress = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }
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

fn switch(word: &str) -> Option<bool> {
    match word {
        "on" => Some(true),
        "off" => Some(false),
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

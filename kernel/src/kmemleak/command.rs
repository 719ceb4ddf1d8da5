//! Commands, and the scans that come by time.
//!
//! | Command | What it does |
//! |---|---|
//! | `off` | ends the detector, for good: nothing is tracked or scanned any more |
//! | `stack=on`, `stack=off` | whether stacks of tasks are scanned (on) |
//! | `scan=on`, `scan=off` | whether scans come by time (on) |
//! | `scan=<s>` | a scan now and every so many seconds (600); 0 = none |
//! | `scan` | a scan, now and at once |
//! | `clear` | the suspects of now are suspected no more; after `off`: all objects are forgotten |
//! | `dump=<addr>` | what is known of the object that holds the address, to the log |
//!
//! A number may begin with a plus sign, as the traditional `kstrtoul` reads it, and with no other.
//!
//! Source: the file `kmemleak` in debugfs, written to.

use super::scan::{OBJECTS, Progress, Scan};
use super::{Kmemleak, State};
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use core::fmt;
use core::str::FromStr;
use vmalloc::lock_api::RawMutex;
use vmalloc::machine::Machine;

/// Nanoseconds until the first scan.
pub const FIRST_SCAN_NS: u64 = 60 * SECOND_NS;
/// Nanoseconds between two scans, unless told.
pub const SCAN_PERIOD_NS: u64 = 600 * SECOND_NS;
const SECOND_NS: u64 = 1_000_000_000;

/// When scans come.
pub(super) struct Schedule {
    /// The time that a tick told last.
    pub(super) told_ns: Option<u64>,
    /// When the next one begins; `None` = a while after the first tick.
    due_ns: Option<u64>,
    period_ns: u64,
    on: bool,
    /// The scan that goes on.
    running: Option<Scan>,
}

impl Schedule {
    pub(super) const fn new() -> Schedule {
        Schedule { told_ns: None, due_ns: None, period_ns: SCAN_PERIOD_NS, on: true, running: None }
    }

    /// Whether a scan has to begin at `now`.
    fn is_due(&mut self, now_ns: u64) -> bool {
        let due = *self.due_ns.get_or_insert(now_ns.saturating_add(FIRST_SCAN_NS));
        let is_due = self.on && self.running.is_none() && now_ns >= due;
        if is_due {
            self.due_ns = Some(now_ns.saturating_add(self.period_ns));
        }
        is_due
    }
}

/// Why a command was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommandError {
    /// It is none of the commands (EINVAL).
    Unknown,
    /// The detector is off, and takes `clear` alone (EPERM).
    Off,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CommandError::Unknown => {
                "no command of kmemleak: off, stack=on, stack=off, scan=on, scan=off, scan=SECONDS, scan, clear, dump=ADDRESS"
            }
            CommandError::Off => "kmemleak is off",
        })
    }
}

impl core::error::Error for CommandError {}

/// What the boot parameter `kmemleak=` says. Without it the detector is on, unless its embedder says
/// otherwise (`CONFIG_DEBUG_KMEMLEAK_DEFAULT_OFF`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Boot {
    /// `on`: it hears of all that is allocated.
    On,
    /// `off`: it is off for good, as by the command.
    Off,
}

impl FromStr for Boot {
    type Err = CommandError;

    fn from_str(value: &str) -> Result<Boot, CommandError> {
        match value {
            "on" => Ok(Boot::On),
            "off" => Ok(Boot::Off),
            _ => Err(CommandError::Unknown),
        }
    }
}

impl<L: RawMutex> Kmemleak<L> {
    /// Obeys the boot parameter, before anything is allocated.
    ///
    /// # Source
    /// `kmemleak_boot_config`.
    pub fn boot<M: Machine>(&self, machine: &M, parameter: Boot) {
        self.locked(machine, |state| state.on &= parameter == Boot::On);
    }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Does what is written to the detector's file.
    ///
    /// # Errors
    /// [`CommandError`].
    ///
    /// # Cost
    /// Of `scan` a whole scan, of `clear` O(objects).
    pub fn kmemleak_write(&self, command: &str) -> Result<(), CommandError> {
        let leaks = self.leaks.ok_or(CommandError::Off)?;
        let is_on = leaks.locked(self.machine(), |state| state.on) == Some(true);
        let command = command.trim_end_matches('\n');
        if command == "clear" {
            if is_on {
                self.clear_suspects(leaks)
            } else {
                self.forget_all(leaks)
            }
            return Ok(());
        }
        if !is_on {
            return Err(CommandError::Off);
        }
        match command.split_once('=') {
            None if command == "off" => self.set(leaks, |state| (state.on, state.schedule.running) = (false, None)),
            None if command == "scan" => _ = self.kmemleak_scan(),
            Some(("stack", "on")) => self.set(leaks, |state| state.stacks = true),
            Some(("stack", "off")) => self.set(leaks, |state| state.stacks = false),
            Some(("scan", "on")) => self.set(leaks, |state| state.schedule.on = true),
            Some(("scan", "off")) => {
                self.set(leaks, |state| (state.schedule.on, state.schedule.running) = (false, None))
            }
            Some(("scan", seconds)) => {
                let seconds: u64 = seconds.parse().map_err(|_| CommandError::Unknown)?;
                self.set(leaks, |state| state.set_period(seconds));
            }
            Some(("dump", at)) => self.dump(leaks, address(at).ok_or(CommandError::Unknown)?),
            _ => return Err(CommandError::Unknown),
        }
        Ok(())
    }

    /// Goes on with the scan that is due, for at most `steps` steps, at `now_ns` by the machine's
    /// clock: the first begins [`FIRST_SCAN_NS`] after the first call, the others every
    /// [`SCAN_PERIOD_NS`]. By whatever runs often and may take as long.
    pub fn kmemleak_tick(&self, now_ns: u64, steps: usize) -> Option<Progress> {
        let leaks = self.leaks?;
        let (is_due, running) = leaks.locked(self.machine(), |state| {
            state.schedule.told_ns = Some(now_ns);
            (state.on && state.schedule.is_due(now_ns), state.schedule.running.take())
        })?;
        let mut scan = running.or_else(|| if is_due { self.begin_at(leaks, now_ns) } else { None })?;
        let progress = scan.advance(self, steps);
        if progress != Progress::More {
            return Some(progress);
        }
        // Another CPU's tick may have begun one that is newer.
        let kept = leaks.locked(self.machine(), |state| {
            let is_last = scan.is_last(state);
            if is_last {
                state.schedule.running = state.schedule.on.then_some(scan);
            }
            is_last
        });
        Some(if kept == Some(false) { Progress::Overtaken } else { progress })
    }

    fn set(&self, leaks: &Kmemleak<M::Lock>, f: impl FnOnce(&mut State)) {
        // Nobody writes a command, or ticks, from inside of the lock.
        let _ = leaks.locked(self.machine(), f);
    }

    /// All objects that were reported and are white count as referenced from here on.
    fn clear_suspects(&self, leaks: &Kmemleak<M::Lock>) {
        let mut from = Some(0);
        while let Some(at) = from {
            let cleared = leaks.locked(self.machine(), |state| {
                let scanned_ns = state.scanned_ns;
                state.each_from(at, |object| {
                    if object.reported && object.is_suspect(scanned_ns) {
                        object.min_count = super::object::GREY;
                    }
                })
            });
            from = cleared.flatten();
        }
    }

    fn forget_all(&self, leaks: &Kmemleak<M::Lock>) {
        let forget = |state: &mut State| {
            (0..OBJECTS).all(|_| state.store.at_or_above(0).map(|object| state.store.remove(object)).is_some())
        };
        while leaks.locked(self.machine(), forget) == Some(true) {}
    }

    fn dump(&self, leaks: &Kmemleak<M::Lock>, at: usize) {
        let id =
            leaks.locked(self.machine(), |state| state.store.holding(at).map(|object| (object.start, object.serial)));
        let Some((object, _)) = id.flatten().and_then(|(start, serial)| self.copy_of(leaks, start, serial)) else {
            return self.printk(Kern::Info, format_args!("kmemleak: no object holds {at:#x}"));
        };
        let (start, size, colour) = (object.start, object.size, object.colour());
        self.printk(Kern::Info, format_args!("kmemleak: object 0x{start:08x} (size {size}), {colour}"));
        let (count, least, reported) = (object.count, object.min_count, object.reported);
        let scan = if object.no_scan { ", not scanned" } else { "" };
        let told = if reported { ", reported" } else { "" };
        self.printk(Kern::Info, format_args!("kmemleak:   count {count}, min_count {least}{scan}{told}"));
        let mut lines = Lines { kernel: self, line: arrayvec::ArrayString::new() };
        // The log takes every line.
        let _ = self.print_origin(&mut lines, &object).and_then(|()| self.print_trace(&mut lines, &object));
    }
}

impl State {
    fn set_period(&mut self, seconds: u64) {
        let schedule = &mut self.schedule;
        schedule.on = seconds != 0;
        if seconds == 0 {
            schedule.running = None;
            return;
        }
        schedule.period_ns = seconds.saturating_mul(SECOND_NS);
        schedule.due_ns = Some(0);
    }
}

/// `0x…`, or digits.
fn address(text: &str) -> Option<usize> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    // The standard library would take one sign more.
    if digits.starts_with('+') { None } else { usize::from_str_radix(digits, radix).ok() }
}

/// Hands lines to the log, cut where they are too long.
struct Lines<'k, 'v, M: Machine, H: Host> {
    kernel: &'k Kernel<'v, M, H>,
    line: arrayvec::ArrayString<160>,
}

impl<M: Machine, H: Host> fmt::Write for Lines<'_, '_, M, H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c == '\n' {
                self.kernel.printk(Kern::Info, format_args!("kmemleak: {}", self.line));
                self.line.clear();
            } else {
                let _ = self.line.try_push(c);
            }
        }
        Ok(())
    }
}

//! Telling how far the replay is, while it runs.
//!
//! On a terminal a bar; elsewhere a line every now and then, so that a log
//! shows that something goes on. Always to stderr: stdout is the report's.

use crate::INTERRUPTED;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::SIGINT;
use signal_hook::flag;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

const REDRAW: Duration = Duration::from_millis(100);
const LOG_LINE: Duration = Duration::from_secs(10);

/// How far everybody is.
pub struct Progress<'s> {
    total: u64,
    done: AtomicU64,
    /// The names of phases, by number.
    marks: &'s [String],
    /// The number of the phase, and 1; 0 before the first.
    phase: AtomicUsize,
    quiet: bool,
    /// Ctrl-C was typed.
    ended: Arc<AtomicBool>,
}

impl<'m> Progress<'m> {
    /// Nobody has done any of `total` steps; `marks` are the phases' names.
    pub fn new(total: u64, marks: &'m [String], quiet: bool) -> Progress<'m> {
        Progress { total, done: AtomicU64::new(0), marks, phase: AtomicUsize::new(0), quiet, ended: Arc::default() }
    }

    /// From now on Ctrl-C ends the replay, which then tells what was done. A second one ends the program.
    pub fn end_by_signal(&self) -> io::Result<()> {
        flag::register_conditional_shutdown(SIGINT, INTERRUPTED, Arc::clone(&self.ended))?;
        flag::register(SIGINT, Arc::clone(&self.ended)).map(drop)
    }

    /// Whether Ctrl-C has ended it.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// Somebody has done one more.
    pub fn step(&self) {
        self.done.fetch_add(1, Relaxed);
    }

    /// So many steps are done.
    pub fn at(&self, done: u64) {
        self.done.store(done, Relaxed);
    }

    /// The trace's workload has entered this phase.
    pub fn phase(&self, number: u32) {
        self.phase.store(number as usize + 1, Relaxed);
    }

    /// Shows it from a thread of `scope`, until what is returned is dropped.
    pub fn show<'s>(&'s self, scope: &'s Scope<'s, '_>) -> Option<Sender<()>> {
        if self.quiet {
            return None;
        }
        let (end, ended) = channel();
        scope.spawn(move || {
            let mut display = Display::new(self);
            while ended.recv_timeout(REDRAW) == Err(RecvTimeoutError::Timeout) {
                display.update();
            }
            display.bar.finish_and_clear();
        });
        Some(end)
    }

    fn phase_name(&self) -> &'m str {
        let number = self.phase.load(Relaxed).checked_sub(1);
        number.and_then(|number| self.marks.get(number)).map_or("", String::as_str)
    }
}

struct Display<'p> {
    progress: &'p Progress<'p>,
    bar: ProgressBar,
    logged: Option<Instant>,
}

impl<'p> Display<'p> {
    fn new(progress: &'p Progress<'p>) -> Display<'p> {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} events, {per_sec}  {msg}");
        let bar = ProgressBar::with_draw_target(Some(progress.total), target)
            .with_style(style.expect("a constant that is right"));
        Display { progress, bar, logged: (!terminal).then(Instant::now) }
    }

    fn update(&mut self) {
        let (done, phase) = (self.progress.done.load(Relaxed), self.progress.phase_name());
        if self.logged.is_some_and(|last| last.elapsed() >= LOG_LINE) {
            self.logged = Some(Instant::now());
            eprintln!("vmalloc: {done} of {} events  {phase}", self.progress.total);
        }
        self.bar.set_position(done);
        self.bar.set_message(phase.to_owned());
    }
}

//! What was found, told to the host: records, nothing else.

use super::stage::Unreachable;
use crate::serial::Console;
use crate::vm;
use core::fmt::{self, Display, Write};
use vmalloc::Stats;
use vmalloc_replay::latency::{Call, Latency};
use vmalloc_replay::peak::Peak;
use vmalloc_replay::stage::unexplained_frames;
use vmalloc_replay::tally::{Tally, WORDS};

/// What there was before the replay: stacks, and what they take.
pub struct Before {
    stats: Stats,
    areas: usize,
    frames: usize,
}

impl Before {
    /// Looks, and tells what is listed already.
    pub fn told() -> Before {
        list("before");
        Before { stats: vm().stats(), areas: vm().areas().count(), frames: unexplained_frames(vm()) }
    }

    /// Tells what is live at the end of the last round.
    pub fn tell_end(&self) {
        let (end, counts) = (vm().stats(), vm().stats().counts.since(&self.stats.counts));
        println!(
            "@end areas={} waiting={} bound={} stocked={} reserve={} tables={} bookkeeping={} flushes={} kicks={} purges={}",
            end.areas.saturating_sub(self.areas),
            end.waiting_pages,
            end.cached_pages,
            end.pooled_frames,
            end.reserve_frames,
            end.table_frames,
            end.bookkeeping_frames,
            counts.flushes,
            counts.kicks,
            counts.purges,
        );
        list("area");
        check("at the end");
    }

    /// Tells what remains when everything has been given back.
    pub fn tell_left(&self) {
        vm().purge();
        let areas = vm().areas().count().saturating_sub(self.areas);
        println!("@left areas={areas} frames={}", unexplained_frames(vm()).saturating_sub(self.frames));
        check("after the last free");
    }
}

fn check(when: &str) {
    if let Err(broken) = vm().check() {
        println!("@broken text={}", Coded(format_args!("{when}: {broken}")));
    }
}

/// Tells what was counted.
pub fn counted(tally: &Tally<Unreachable>, stopped: bool) {
    for (word, n) in WORDS.into_iter().zip(tally.events).filter(|(_, n)| *n > 0) {
        println!("@event word={word} done={n}");
    }
    let Tally { failed, bytes_written, bytes_verified, bytes_wrong, .. } = tally;
    println!(
        "@tally failed={failed} written={bytes_written} verified={bytes_verified} wrong={bytes_wrong} stopped={}",
        u8::from(stopped)
    );
    for error in &tally.errors {
        println!("@error text={}", Coded(error));
    }
}

/// Tells how long calls took, in nanoseconds: values, each with its count.
pub fn latencies(latency: &Latency) {
    for call in Call::ALL.into_iter().filter(|&call| latency.of(call).count() > 0) {
        print!("@latency call={} values=", call.name());
        for (value, count) in latency.of(call).values() {
            print!("{value}:{count},");
        }
        println!();
    }
}

/// Tells how much there was at once.
pub fn peaks(peak: &Peak) {
    let peaks = peak.peaks();
    println!("@peak areas={} pages={} span={} of={}", peaks.areas, peaks.pages, peaks.span_pages, peaks.of_pages);
}

/// Tells the listing, a record a line.
fn list(record: &'static str) {
    // The console refuses nothing.
    let _ = vm().list(&mut Lines { record, begun: false });
}

/// Makes lines to records.
struct Lines {
    record: &'static str,
    begun: bool,
}

impl Write for Lines {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            if !self.begun {
                print!("@{} text=", self.record);
            }
            self.begun = !part.ends_with('\n');
            Percent(Console).write_str(part.trim_end_matches('\n'))?;
            if !self.begun {
                println!();
            }
        }
        Ok(())
    }
}

/// A text as the value of a record.
struct Coded<T>(T);

impl<T: Display> Display for Coded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Percent(f), "{}", self.0)
    }
}

/// Writes what a value of a record may not have as `%XX`.
struct Percent<W>(W);

impl<W: Write> Write for Percent<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().try_for_each(|byte| match byte {
            b'!'..=b'~' if byte != b'%' => self.0.write_char(byte as char),
            _ => write!(self.0, "%{byte:02x}"),
        })
    }
}

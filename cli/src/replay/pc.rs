//! The replay on the bare-metal machine: the script goes there as a parcel,
//! the figures come back as records.

use super::players::Remains;
use super::progress::Progress;
use super::setup::region_bytes;
use super::{Counted, Findings, Left, Manner};
use crate::options::{Replay, word};
use crate::qemu::record::{BadRecord, Line, Record};
use crate::qemu::tools::{Purpose, Tools};
use crate::qemu::{Guest, Outcome};
use crate::trace::script::Script;
use anyhow::{Context, Result, ensure};
use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};
use vmalloc_replay::latency::{Call, Latency};
use vmalloc_replay::parcel::{self, Head};
use vmalloc_replay::tally::WORDS;
use vmalloc_replay::worker::caller_number;

/// CPUs that the image starts at most.
pub const CPUS: u32 = 64;
/// Memory that the image needs, beside the parcel.
const LEAST: u64 = 64 << 20;
/// What a round may take. One takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(600);

/// Plays `script` there.
pub fn play(options: &Replay, script: &Script, manner: Manner, progress: &Progress<'_>) -> Result<Findings> {
    ensure!(options.memory >= LEAST, "{} bytes of memory: the bare-metal machine needs {LEAST}", options.memory);
    let tools = Tools::find(&options.source, Purpose::Use)?;
    let guest = guest(options, script, manner);
    let mut clock = Clock::default();
    let outcome = thread::scope(|scope| {
        let _shown_until_the_end = progress.show(scope);
        guest.run(&tools, &mut |line| match line {
            Line::Record(record) => clock.look(record, progress),
            Line::Text(_) => {}
        })
    })?;
    ensure!(outcome.passed, "the guest could not play the script");
    Ok(Findings { elapsed: clock.elapsed, ..findings(&outcome, &script.callers).context("what the guest told")? })
}

fn guest(options: &Replay, script: &Script, manner: Manner) -> Guest {
    let head = Head::new(&script.areas, &script.steps, manner);
    let region = region_bytes(script).next().unwrap_or_default();
    let mut parcel: Vec<u8> = parcel::words(&head, &script.areas, &script.steps).flat_map(u64::to_le_bytes).collect();
    parcel.resize(head.bytes(), 0);
    Guest {
        cpus: manner.cpus,
        memory: options.memory,
        settings: vec![
            format!("policy={}", word(options.policy)),
            format!("placement={}", word(options.placement)),
            format!("region={region}"),
        ],
        commands: vec!["replay".to_owned()],
        module: Some(parcel),
        time_limit: Some(PATIENCE * manner.loops),
        ..Guest::default()
    }
}

/// The time that the rounds take, by our clock.
#[derive(Default)]
struct Clock {
    started: Option<Instant>,
    elapsed: Duration,
}

impl Clock {
    fn look(&mut self, record: &Record, progress: &Progress<'_>) {
        // A word about the progress that makes no sense is none.
        let number = |key| record.number(key).ok();
        match record.name.as_str() {
            "start" => self.started = Some(Instant::now()),
            "stop" => self.elapsed += self.started.take().map_or(Duration::ZERO, |started| started.elapsed()),
            "progress" => number("done").into_iter().for_each(|done| progress.at(done)),
            "phase" => number("number").into_iter().for_each(|phase| progress.phase(phase as u32)),
            _ => {}
        }
    }
}

/// All that the guest told, but the time.
fn findings(outcome: &Outcome, callers: &[String]) -> Result<Findings, BadRecord> {
    let mut findings = Findings::default();
    let mut before = HashSet::new();
    for record in &outcome.records {
        match record.name.as_str() {
            "event" | "tally" | "error" => count(&mut findings.counted, record)?,
            "latency" => measure(&mut findings.latency, record)?,
            "peak" | "end" | "left" => sum_up(&mut findings, record)?,
            "broken" => findings.broken.push(record.text("text")?.to_owned()),
            "before" => drop(before.insert(record.text("text")?)),
            "area" => {
                let line = record.text("text")?;
                if !before.contains(line) {
                    findings.listing += &named(line, callers);
                }
            }
            _ => {}
        }
        findings.stopped |= record.name == "tally" && record.number("stopped")? != 0;
    }
    Ok(findings)
}

fn count(counted: &mut Counted, record: &Record) -> Result<(), BadRecord> {
    match record.name.as_str() {
        "event" => {
            let word = record.text("word")?;
            let place = WORDS.iter().position(|known| *known == word);
            place.map(|place| record.number("done").map(|done| counted.events[place] = done)).transpose()?;
        }
        "error" => counted.errors.push(record.text("text")?.to_owned()),
        _ => {
            counted.failed = record.number("failed")?;
            counted.bytes_written = record.number("written")?;
            counted.bytes_verified = record.number("verified")?;
            counted.bytes_wrong = record.number("wrong")?;
        }
    }
    Ok(())
}

fn measure(latency: &mut Latency, record: &Record) -> Result<(), BadRecord> {
    let call = record.text("call")?;
    let values = record.text("values")?.split(',').filter_map(|pair| pair.split_once(':'));
    let Some(call) = Call::ALL.into_iter().find(|known| known.name() == call) else { return Ok(()) };
    for (value, count) in values.filter_map(|(value, count)| Some((value.parse().ok()?, count.parse().ok()?))) {
        latency.of_mut(call).add(value, count);
    }
    Ok(())
}

fn sum_up(findings: &mut Findings, record: &Record) -> Result<(), BadRecord> {
    let number = |key| record.number(key);
    let count = |key| record.number(key).map(|n| n as usize);
    match record.name.as_str() {
        "peak" => {
            let peaks = &mut findings.peaks;
            (peaks.areas, peaks.pages) = (number("areas")?, number("pages")?);
            (peaks.span_pages, peaks.of_pages) = (number("span")?, number("of")?);
        }
        "left" => {
            let remains = Remains { frames: count("frames")?, vmas: 0 };
            findings.left = Left { areas: count("areas")?, remains };
        }
        _ => {
            let end = &mut findings.end;
            (end.areas, end.waiting_pages, end.cached_pages) = (count("areas")?, count("waiting")?, count("bound")?);
            (end.pooled_frames, end.reserve_frames) = (count("stocked")?, count("reserve")?);
            (end.table_frames, end.bookkeeping_frames) = (count("tables")?, count("bookkeeping")?);
            (end.counts.flushes, end.counts.kicks) = (number("flushes")?, number("kicks")?);
            end.counts.purges = number("purges")?;
        }
    }
    Ok(())
}

/// A line of the guest's listing, with the names that only we know: there a
/// caller is a number.
fn named(line: &str, callers: &[String]) -> String {
    let name = |word: &str| {
        let pc = usize::from_str_radix(word.strip_prefix("0x")?, 16).ok()?;
        callers.get(caller_number(pc)?)
    };
    let words = line.split(' ').map(|word| name(word).map_or(word, String::as_str));
    words.collect::<Vec<_>>().join(" ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Outcome {
        Outcome { passed: true, records: text.lines().filter_map(Record::parse).collect() }
    }

    #[test]
    fn what_the_guest_tells_becomes_findings() {
        let found = findings(
            &told(
                "@before text=0x1-0x2%208192%20stack\n@progress done=5\n@event word=alloc done=7\n\
                 @tally failed=1 written=2 verified=3 wrong=4 stopped=1\n@error text=too%20few\n\
                 @latency call=purge values=10:2,30:1,\n@peak areas=1 pages=2 span=3 of=4\n\
                 @end areas=5 waiting=6 bound=14 stocked=7 reserve=8 tables=9 bookkeeping=10 flushes=11 kicks=12 purges=13\n\
                 @area text=0x1-0x2%208192%20stack\n@area text=0x3-0x4%20%208192%200x20%20vmalloc\n\
                 @left areas=1 frames=2\n@broken text=at%20the%20end",
            ),
            &["f".to_owned(), "g+0x1".to_owned()],
        )
        .unwrap();
        assert_eq!((found.counted.events[0], found.counted.failed, found.counted.bytes_wrong), (7, 1, 4));
        assert_eq!((found.counted.errors, found.stopped), (vec!["too few".to_owned()], true));
        assert_eq!(found.latency.of(Call::Purge).values().collect::<Vec<_>>(), [(10, 2), (30, 1)]);
        assert_eq!(
            (found.peaks.of_pages, found.end.areas, found.end.cached_pages, found.end.counts.purges),
            (4, 5, 14, 13)
        );
        assert_eq!(found.listing, "0x3-0x4  8192 g+0x1 vmalloc\n");
        assert_eq!((found.left.areas, found.left.remains.frames, found.broken.len()), (1, 2, 1));
    }

    #[test]
    fn figures_that_are_missing_are_an_error() {
        let why = findings(&told("@tally failed=0"), &[]).err().unwrap();
        assert_eq!(why.to_string(), "the guest's @tally has no written");
    }
}

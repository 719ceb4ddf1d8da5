//! The report of a replay: one set of numbers, told in two ways.
//!
//! [`Report`] is what `--json` writes, field by field: its names are stable,
//! and cli/README.md explains them. [`table`] tells people the same. [`picture`] draws addresses,
//! for other commands too.

pub mod picture;
pub mod table;

use crate::listing::Comparison;
use crate::options::{Replay, word};
use crate::replay::historic::Past;
use crate::replay::players::Vmas;
use crate::replay::{Findings, Manner};
use crate::trace::script::Script;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use vmalloc::Stats;
use vmalloc_replay::latency::{Call, Histogram, Latency};
use vmalloc_replay::tally::WORDS;

/// What a replay did and found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether all went well.
    pub ok: bool,
    /// Whether Ctrl-C ended it.
    pub interrupted: bool,
    pub trace: String,
    pub machine: String,
    pub policy: String,
    pub placement: String,
    pub cpus: u32,
    pub loops: u32,
    pub seed: u64,
    pub memory_bytes: u64,
    /// Events of the trace, times loops.
    pub events_total: u64,
    pub events_done: u64,
    pub events_failed: u64,
    /// Those done, by the trace's word.
    pub events: BTreeMap<&'static str, u64>,
    pub bytes_written: u64,
    pub bytes_verified: u64,
    pub bytes_wrong: u64,
    pub latency_ns: BTreeMap<CallName, Percentiles>,
    pub peak_areas: u64,
    pub peak_pages: u64,
    pub span_pages: u64,
    pub span_ratio: f64,
    pub areas_at_end: usize,
    /// Frames that are held beyond those of live areas, at the end.
    pub frames_held: Held,
    pub flushes: u64,
    pub kicks: u64,
    pub purges_waited: u64,
    /// Absent where the machine makes no mappings of a process.
    #[serde(flatten)]
    pub vmas: Option<VmaFields>,
    pub elapsed_s: f64,
    /// Rules of the library that were found broken.
    pub rules_broken: usize,
    pub leaked_areas: usize,
    pub leaked_frames: usize,
    pub leaked_vmas: usize,
    /// Absent without `--expect`.
    #[serde(flatten)]
    pub expect: Option<Expect>,
    /// Absent without `--historic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub historic: Option<Past>,
    /// Chunks that the library looked for room for: what it searches the arena for.
    pub arena_searches: u64,
    /// What the first failures said.
    pub errors: Vec<String>,
}

/// Frames that are held and belong to no live area.
#[derive(Debug, Serialize)]
pub struct Held {
    /// In freed areas that wait for a flush.
    pub waiting: usize,
    /// In freed areas that stay bound (policies park and keep).
    pub bound: usize,
    /// Free, in the stocks of CPUs and nodes.
    pub stocked: usize,
    /// In the promised reserve.
    pub reserve: usize,
    /// Page tables.
    pub tables: usize,
    /// The library's own records.
    pub bookkeeping: usize,
}

impl Held {
    fn of(end: &Stats) -> Held {
        Held {
            waiting: end.waiting_pages,
            bound: end.cached_pages,
            stocked: end.pooled_frames,
            reserve: end.reserve_frames,
            tables: end.table_frames,
            bookkeeping: end.bookkeeping_frames,
        }
    }
}

/// A call, by its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CallName(pub Call);

impl Serialize for CallName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.name())
    }
}

/// Percentiles of one operation, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Percentiles {
    /// Calls measured.
    pub count: u64,
    pub p50: u64,
    pub p99: u64,
    #[serde(rename = "p99.9")]
    pub p999: u64,
    pub max: u64,
}

impl Percentiles {
    fn of(histogram: &Histogram) -> Percentiles {
        let [p50, p99, p999, max] = [500, 990, 999, 1000].map(|share| histogram.at_thousandths(share));
        Percentiles { count: histogram.count(), p50, p99, p999, max }
    }
}

/// The percentiles, by operation that was called.
fn percentiles(latency: &Latency) -> BTreeMap<CallName, Percentiles> {
    let all = Call::ALL.iter().map(|&call| (CallName(call), Percentiles::of(latency.of(call))));
    all.filter(|(_, of)| of.count > 0).collect()
}

/// Mappings of the process.
#[derive(Debug, Serialize)]
pub struct VmaFields {
    pub vmas_used: usize,
    pub vmas_allowed: usize,
}

/// How what is live at the end compares with the listing.
#[derive(Debug, Serialize)]
pub struct Expect {
    pub expect_matched: usize,
    pub expect_missing: usize,
    pub expect_extra: usize,
}

impl Held {
    /// All of them.
    pub fn sum(&self) -> usize {
        self.waiting + self.bound + self.stocked + self.reserve + self.tables + self.bookkeeping
    }
}

impl From<&Comparison> for Expect {
    fn from(of: &Comparison) -> Expect {
        Expect { expect_matched: of.matched, expect_missing: of.missing.len(), expect_extra: of.extra.len() }
    }
}

impl From<Vmas> for VmaFields {
    fn from(vmas: Vmas) -> VmaFields {
        VmaFields { vmas_used: vmas.used, vmas_allowed: vmas.allowed }
    }
}

impl Report {
    /// The report of a replay of `script`.
    pub fn new(
        options: &Replay,
        manner: Manner,
        script: &Script,
        found: &Findings,
        expected: Option<&Comparison>,
    ) -> Report {
        let (tally, end, left) = (&found.counted, &found.end, &found.left);
        let expect = expected.map(Expect::from);
        let differs = expect.as_ref().is_some_and(|e| e.expect_missing + e.expect_extra > 0);
        let (events_done, events_total) =
            (tally.events.iter().sum(), script.steps.len() as u64 * u64::from(manner.loops));
        let all = tally.failed == 0 && events_done == events_total;
        let clean = all && tally.bytes_wrong == 0 && found.broken.is_empty() && *left == Default::default();
        Report {
            ok: clean && !(options.strict_expect && differs),
            interrupted: found.interrupted,
            trace: options.trace.as_ref().map_or("built in: mix".to_owned(), |path| path.display().to_string()),
            machine: word(options.machine),
            policy: word(options.policy),
            placement: word(options.placement),
            cpus: manner.cpus,
            loops: manner.loops,
            seed: manner.seed,
            memory_bytes: options.memory,
            events_total,
            events_done,
            events_failed: tally.failed,
            events: WORDS.into_iter().zip(tally.events).filter(|(_, n)| *n > 0).collect(),
            bytes_written: tally.bytes_written,
            bytes_verified: tally.bytes_verified,
            bytes_wrong: tally.bytes_wrong,
            latency_ns: percentiles(&found.latency),
            peak_areas: found.peaks.areas,
            peak_pages: found.peaks.pages,
            span_pages: found.peaks.span_pages,
            span_ratio: found.peaks.span_pages as f64 / found.peaks.of_pages.max(1) as f64,
            areas_at_end: end.areas,
            frames_held: Held::of(end),
            flushes: end.counts.flushes,
            kicks: end.counts.kicks,
            purges_waited: end.counts.purges,
            vmas: found.vmas.map(VmaFields::from),
            elapsed_s: found.elapsed.as_secs_f64(),
            rules_broken: found.broken.len(),
            leaked_areas: left.areas,
            leaked_frames: left.remains.frames,
            leaked_vmas: left.remains.vmas,
            expect,
            historic: None,
            arena_searches: end.counts.chunks_made,
            errors: tally.errors.iter().chain(&found.broken).cloned().collect(),
        }
    }
}

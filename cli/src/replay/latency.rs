//! How long calls took, by operation.

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// An operation of the library, as reports name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Call {
    /// `alloc`
    Alloc,
    /// `free` of what `alloc` made
    Free,
    /// `free` from interrupt context
    FreeIrq,
    /// `vmap`
    Vmap,
    /// `vunmap`
    Vunmap,
    /// `ioremap`
    Ioremap,
    /// `iounmap`
    Iounmap,
    /// `reserve`
    Reserve,
    /// `free` of what `reserve` made
    Release,
    /// `map_ram`
    MapRam,
    /// `unmap_ram`
    UnmapRam,
    /// `congruent`
    PcpuAlloc,
    /// the frees of its parts, together
    PcpuFree,
    /// `purge`
    Purge,
}

impl Call {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Call::Alloc => "alloc",
            Call::Free => "free",
            Call::FreeIrq => "free_irq",
            Call::Vmap => "vmap",
            Call::Vunmap => "vunmap",
            Call::Ioremap => "ioremap",
            Call::Iounmap => "iounmap",
            Call::Reserve => "reserve",
            Call::Release => "release",
            Call::MapRam => "map_ram",
            Call::UnmapRam => "unmap_ram",
            Call::PcpuAlloc => "pcpu_alloc",
            Call::PcpuFree => "pcpu_free",
            Call::Purge => "purge",
        }
    }
}

impl Serialize for Call {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

/// What one worker measured.
#[derive(Default)]
pub struct Latency(BTreeMap<Call, Histogram<u64>>);

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

impl Latency {
    /// Runs `act` and notes how long it took.
    pub fn timed<R>(&mut self, call: Call, act: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = act();
        self.note(call, start.elapsed());
        result
    }

    /// Notes that a call took so long.
    pub fn note(&mut self, call: Call, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Saturating: a call of more than a minute counts as one minute.
        self.0.entry(call).or_insert_with(histogram).saturating_record(ns.max(1));
    }

    /// Adds what another worker measured.
    pub fn merge(&mut self, other: &Latency) {
        for (&call, theirs) in &other.0 {
            let ours = self.0.entry(call).or_insert_with(histogram);
            ours.add(theirs).expect("all histograms have the same bounds");
        }
    }

    /// The percentiles, by operation.
    pub fn percentiles(&self) -> BTreeMap<Call, Percentiles> {
        self.0.iter().map(|(&call, of)| (call, Percentiles::of(of))).collect()
    }
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Percentiles {
        Percentiles {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        }
    }
}

/// From one nanosecond to a minute, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constants that are right")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_all_workers_together() {
        let (mut a, mut b) = (Latency::default(), Latency::default());
        for ns in 1..=500 {
            a.note(Call::Alloc, Duration::from_nanos(ns));
            b.note(Call::Alloc, Duration::from_nanos(500 + ns));
        }
        b.note(Call::Purge, Duration::from_secs(3600));
        a.merge(&b);
        let all = a.percentiles();
        assert_eq!(all[&Call::Alloc], Percentiles { count: 1000, p50: 500, p99: 990, p999: 999, max: 1000 });
        assert_eq!(all[&Call::Purge].count, 1);
        assert!(all[&Call::Purge].max >= 60_000_000_000);
        assert_eq!(all.len(), 2);
    }
}

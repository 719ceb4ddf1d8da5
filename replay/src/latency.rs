//! How long calls took, by operation.
//!
//! A histogram's buckets are 1/128 of their values wide, so that it can be
//! added to another one, and handed over, without losing more than that.

/// Buckets for each power of two, as a power of two.
const FINE: u32 = 7;
/// Values from 2³⁷ on count as the largest below: two minutes, in nanoseconds.
const LARGEST: u32 = 37;
/// Buckets of a histogram.
pub const BUCKETS: usize = ((LARGEST - FINE + 1) << FINE) as usize;

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
    /// All of them, in their order.
    pub const ALL: [Call; 14] = [
        Call::Alloc,
        Call::Free,
        Call::FreeIrq,
        Call::Vmap,
        Call::Vunmap,
        Call::Ioremap,
        Call::Iounmap,
        Call::Reserve,
        Call::Release,
        Call::MapRam,
        Call::UnmapRam,
        Call::PcpuAlloc,
        Call::PcpuFree,
        Call::Purge,
    ];

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

/// How often which value came, in some unit of time.
#[derive(Clone, Debug)]
pub struct Histogram([u32; BUCKETS]);

impl Histogram {
    /// Nothing came yet.
    pub const EMPTY: Histogram = Histogram([0; BUCKETS]);

    /// `value` came `count` times more.
    pub fn add(&mut self, value: u64, count: u32) {
        let bucket = &mut self.0[bucket(value)];
        *bucket = bucket.saturating_add(count);
    }

    /// What came, ascending: values, each with its count. A value stands for
    /// all of its bucket.
    pub fn values(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.0.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bucket, &count)| (value(bucket), count))
    }

    /// How many came.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|&count| u64::from(count)).sum()
    }

    /// The value that this many thousandths of those that came do not exceed.
    pub fn at_thousandths(&self, share: u64) -> u64 {
        let mut left = (self.count() * share).div_ceil(1000).max(1);
        let reached = self.values().find(|&(_, count)| {
            let here = left <= u64::from(count);
            left = left.saturating_sub(u64::from(count));
            here
        });
        reached.map_or(0, |(value, _)| value)
    }
}

/// The bucket of `value`: below 2⁷ one for each, then 128 for each power of 2.
fn bucket(value: u64) -> usize {
    let value = value.min((1 << LARGEST) - 1);
    let power = value.checked_ilog2().unwrap_or(0).max(FINE) - FINE;
    ((value >> power) + (u64::from(power) << FINE)) as usize
}

/// The largest value of `bucket`.
fn value(bucket: usize) -> u64 {
    let power = (bucket >> FINE).saturating_sub(1);
    let lowest = bucket - (power << FINE);
    ((lowest as u64 + 1) << power) - 1
}

/// What was measured, by operation.
#[derive(Clone, Debug)]
pub struct Latency([Histogram; Call::ALL.len()]);

impl Latency {
    /// Nothing was measured yet. All of it is zero bytes.
    pub const EMPTY: Latency = Latency([Histogram::EMPTY; Call::ALL.len()]);

    /// A call took so long.
    pub fn note(&mut self, call: Call, took: u64) {
        self.of_mut(call).add(took, 1);
    }

    /// The latencies of `call`.
    pub fn of(&self, call: Call) -> &Histogram {
        &self.0[call as usize]
    }

    /// The latencies of `call`, to be added to.
    pub fn of_mut(&mut self, call: Call) -> &mut Histogram {
        &mut self.0[call as usize]
    }

    /// Adds what another worker measured.
    pub fn merge(&mut self, other: &Latency) {
        for (ours, theirs) in self.0.iter_mut().zip(&other.0) {
            ours.0.iter_mut().zip(&theirs.0).for_each(|(ours, theirs)| *ours = ours.saturating_add(*theirs));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::vec::Vec;

    #[test]
    fn a_bucket_is_the_128th_part_of_its_values_wide() {
        for power in 0..LARGEST {
            for near in [1 << power, (1u64 << power) + 1, (1u64 << power) * 3 / 2, (2u64 << power) - 1] {
                let stands = value(bucket(near));
                assert!(stands >= near && stands - near <= near >> FINE, "{near} counts as {stands}");
                assert_eq!(bucket(stands), bucket(near));
            }
        }
        assert_eq!((bucket(0), value(0), bucket(u64::MAX)), (0, 0, BUCKETS - 1));
    }

    #[test]
    fn shares_are_those_of_all_workers_together() {
        let (mut a, mut b) = (Box::new(Latency::EMPTY), Box::new(Latency::EMPTY));
        for ns in 1..=50 {
            a.note(Call::Alloc, ns);
            b.note(Call::Alloc, 50 + ns);
        }
        b.note(Call::Purge, u64::MAX);
        a.merge(&b);
        let all = a.of(Call::Alloc);
        assert_eq!([1, 500, 990, 999, 1000].map(|share| all.at_thousandths(share)), [1, 50, 99, 100, 100]);
        assert_eq!((all.count(), a.of(Call::Free).count()), (100, 0));
        assert_eq!(a.of(Call::Purge).values().collect::<Vec<_>>(), [((1 << LARGEST) - 1, 1)]);
        assert_eq!(Histogram::EMPTY.at_thousandths(500), 0);
    }

    #[test]
    fn calls_are_numbered_in_their_order() {
        assert!(Call::ALL.iter().enumerate().all(|(at, call)| *call as usize == at));
    }
}

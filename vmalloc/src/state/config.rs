//! The configuration of an instance, for `init`.

use crate::area::{Placement, Policy};
use crate::error::to_be_had;
use crate::space::arena::MAX_GRAINS;
use crate::units::VirtAddr;
use arrayvec::ArrayVec;
use core::fmt;
use core::ops::Range;

/// The most regions of one instance.
pub const MAX_REGIONS: usize = 4;

#[derive(Clone, Copy, Debug)]
pub(crate) struct RegionConfig {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) placement: Placement,
}

/// The configuration of an instance. Everything but the region has a default.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) regions: ArrayVec<RegionConfig, MAX_REGIONS>,
    pub(crate) surplus_regions: usize,
    pub(crate) policy: Policy,
    pub(crate) atomic_reserve: usize,
    pub(crate) batch_pages: Option<usize>,
    pub(crate) waiting_pages: Option<usize>,
    pub(crate) cached_pages: Option<usize>,
}

impl Config {
    /// Places areas in `region`, which is region 0.
    pub fn region(region: Range<usize>) -> Config {
        let none = Config {
            regions: ArrayVec::new(),
            surplus_regions: 0,
            policy: Policy::Unmap,
            atomic_reserve: 0,
            batch_pages: None,
            waiting_pages: None,
            cached_pages: None,
        };
        none.add_region(region)
    }

    /// Adds a region with the placement chosen so far. The first one added is region 1.
    pub fn add_region(mut self, region: Range<usize>) -> Config {
        let placement = self.regions.last().map_or(Placement::Classes, |last| last.placement);
        let new = RegionConfig { start: region.start, end: region.end, placement };
        if self.regions.try_push(new).is_err() {
            self.surplus_regions += 1;
        }
        self
    }

    /// Chooses the placement for all regions, those named already and those added later.
    pub fn placement(mut self, placement: Placement) -> Config {
        self.regions.iter_mut().for_each(|region| region.placement = placement);
        self
    }

    /// Chooses what a free does.
    pub fn policy(mut self, policy: Policy) -> Config {
        self.policy = policy;
        self
    }

    /// Reserves this number of frames for `Gfp::ATOMIC` requests.
    pub fn atomic_reserve(mut self, frames: usize) -> Config {
        self.atomic_reserve = frames;
        self
    }

    /// Lets this number of pages wait on each CPU until a flush that all CPUs share (G4): one CPU
    /// alone flushes at this number, several when there are half as many again on average. The
    /// default is RAM/64/CPUs, within 64..4096.
    pub fn batch_pages(mut self, pages: usize) -> Config {
        self.batch_pages = Some(pages);
        self
    }

    /// Lets this number of pages wait for flushes; beyond it, an allocation that may wait purges
    /// first (G4). The default is RAM/32.
    pub fn waiting_pages(mut self, pages: usize) -> Config {
        self.waiting_pages = Some(pages);
        self
    }

    /// Lets each CPU cache this number of pages of freed areas under the policies Park and Keep, at
    /// most 32,767. The default is RAM/256/CPUs, within 1 and 16 MiB.
    pub fn cached_pages(mut self, pages: usize) -> Config {
        self.cached_pages = Some(pages);
        self
    }

    /// The pages of a full batch of each of `cpus` CPUs on a machine of `total` frames, at most all.
    pub(crate) fn batch(&self, total: usize, cpus: u32) -> usize {
        let usual = (total / 64 / cpus as usize).clamp(64, 4096);
        self.batch_pages.map_or(usual, |pages| pages.min(total))
    }

    /// The pages that may wait for flushes on a machine of `total` frames.
    pub(crate) fn waiting(&self, total: usize) -> usize {
        self.waiting_pages.unwrap_or(total / 32)
    }

    /// The pages that each of `cpus` CPUs may cache on a machine of `total` frames.
    pub(crate) fn budget(&self, total: usize, cpus: u32) -> usize {
        const MIB: usize = (1 << 20) / crate::units::PAGE_SIZE;
        let usual = (total / 256 / cpus.max(1) as usize).clamp(MIB, 16 * MIB);
        self.cached_pages.unwrap_or(usual).min(crate::space::cache::MAX_CACHED_PAGES)
    }
}

/// Why no instance can serve a region. A grain is 64 pages with the placement Classes, and a page with
/// Lowest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionFault {
    /// Its first or its end address is not a multiple of the page size.
    NotAligned,
    /// It holds address 0.
    HoldsNull,
    /// It ends before its start, or has no whole grain behind its first page, which serves nobody.
    NoGrain,
    /// It has more than 2³⁶ grains: 16 PiB, or 256 TiB.
    TooManyGrains,
}

impl fmt::Display for RegionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RegionFault::NotAligned => "an end of the region is not page-aligned",
            RegionFault::HoldsNull => "the region holds address 0",
            RegionFault::NoGrain => "the region has no whole grain behind the first page",
            RegionFault::TooManyGrains => "the region has more than 2^36 grains",
        })
    }
}

/// The reason why `init` was refused. The instance has not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitError {
    /// `init` was called before.
    Twice,
    /// There are more than [`MAX_REGIONS`] regions.
    TooManyRegions(usize),
    /// No instance can serve the region.
    BadRegion {
        /// Why not.
        why: RegionFault,
        /// The first address.
        start: VirtAddr,
        /// The end address.
        end: VirtAddr,
    },
    /// The region does not lie in one half of the addresses that the tables translate. With 32-bit
    /// tables: it does not lie below 4 GiB.
    NotCanonical {
        /// The first address.
        start: VirtAddr,
        /// The end address.
        end: VirtAddr,
    },
    /// An entry above the leaf tables of a region is in use: a large page of the embedder's.
    InUse {
        /// The first address of the region that the entry covers.
        at: VirtAddr,
        /// The level of the entry.
        level: u8,
    },
    /// A table of the embedder's above a region forbids writing or execution.
    Restricted {
        /// The first address of the region that the table covers.
        at: VirtAddr,
        /// The level of the entry that links it.
        level: u8,
    },
    /// Two regions overlap.
    Overlap(usize, usize),
    /// There are no CPUs, or more than an instance serves.
    BadCpus(u32),
    /// There is not enough memory for the bookkeeping of the CPUs.
    NoMemory {
        /// The number of frames needed.
        wanted: usize,
        /// The number of frames found, if they were looked for.
        got: Option<usize>,
    },
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InitError::Twice => f.write_str("initialised already"),
            InitError::TooManyRegions(n) => write!(f, "{n} regions; at most {MAX_REGIONS} are served"),
            InitError::BadRegion { why, start, end } => write!(f, "{start}-{end}: {why}"),
            InitError::NotCanonical { start, end } => {
                write!(f, "{start}-{end}: not addresses that the tables translate")
            }
            InitError::InUse { at, level } => write!(f, "the entry of level {level} for {at} is in use already"),
            InitError::Restricted { at, level } => {
                write!(f, "the table at level {level} for {at} forbids writing or execution")
            }
            InitError::Overlap(a, b) => write!(f, "regions {a} and {b} overlap"),
            InitError::BadCpus(n) => write!(f, "{n} CPUs; from 1 to {} are served", crate::units::MAX_CPUS),
            InitError::NoMemory { wanted, got } => {
                write!(f, "{wanted} frames of bookkeeping wanted")?;
                to_be_had(*got, f)
            }
        }
    }
}

impl core::error::Error for InitError {}

impl Config {
    /// Checks everything that can be checked without memory.
    pub(crate) fn validate(&self, cpus: u32) -> Result<(), InitError> {
        if self.surplus_regions > 0 {
            return Err(InitError::TooManyRegions(MAX_REGIONS + self.surplus_regions));
        }
        if cpus == 0 || cpus as usize > crate::units::MAX_CPUS {
            return Err(InitError::BadCpus(cpus));
        }
        self.regions.iter().try_for_each(RegionConfig::validate)?;
        for (i, a) in self.regions.iter().enumerate() {
            let twin = self.regions[..i].iter().position(|b| a.start < b.end && b.start < a.end);
            twin.map_or(Ok(()), |j| Err(InitError::Overlap(j, i)))?;
        }
        Ok(())
    }

    /// Checks that tables which translate `bits` bits of an address can name every page of the
    /// regions, and each page by one address only.
    pub(crate) fn is_canonical(&self, bits: u32) -> Result<(), InitError> {
        let refused = self.regions.iter().find(|region| !region.is_canonical(bits));
        refused.map_or(Ok(()), |r| Err(InitError::NotCanonical { start: VirtAddr(r.start), end: VirtAddr(r.end) }))
    }
}

impl RegionConfig {
    /// log2 of the pages in a grain.
    pub(crate) fn grain_shift(&self) -> u32 {
        match self.placement {
            Placement::Classes => crate::space::class::UNIT_SHIFT,
            Placement::Lowest => 0,
        }
    }

    /// The address of the first whole grain. A grain never crosses a border of leaf tables. The
    /// first page is not used, so that areas are safe from whatever lies below the region (G6).
    pub(crate) fn first_grain(&self) -> usize {
        let second = self.start.saturating_add(crate::units::PAGE_SIZE);
        second.checked_next_multiple_of(crate::units::PAGE_SIZE << self.grain_shift()).unwrap_or(usize::MAX)
    }

    /// Whether the bits above the lowest `bits` all equal the highest of those. With 32 bits or
    /// fewer, whether they are 0.
    fn is_canonical(&self, bits: u32) -> bool {
        let (first, last) = (self.start as u64, (self.end - 1) as u64);
        match bits {
            ..=32 => last >> bits == 0,
            64.. => true,
            _ => {
                let half = |at: u64| at as i64 >> (bits - 1);
                half(first) == half(last) && matches!(half(first), 0 | -1)
            }
        }
    }

    fn validate(&self) -> Result<(), InitError> {
        let (start, end) = (self.start, self.end);
        let grain = crate::units::PAGE_SIZE << self.grain_shift();
        let aligned = (start | end).is_multiple_of(crate::units::PAGE_SIZE);
        let grains = (end.saturating_sub(self.first_grain()) / grain) as u64;
        let why = match grains {
            _ if !aligned => RegionFault::NotAligned,
            // The address of an area must not be null.
            _ if start == 0 => RegionFault::HoldsNull,
            0 => RegionFault::NoGrain,
            1..=MAX_GRAINS => return Ok(()),
            _ => RegionFault::TooManyGrains,
        };
        Err(InitError::BadRegion { why, start: VirtAddr(start), end: VirtAddr(end) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PAGE_SIZE;
    extern crate std;

    fn bad(why: RegionFault, start: usize, end: usize) -> InitError {
        InitError::BadRegion { why, start: VirtAddr(start), end: VirtAddr(end) }
    }

    #[test]
    fn a_region_of_64_kib_is_told_that_it_has_no_whole_grain() {
        let refused = Config::region(0x10_0000..0x11_0000).validate(1).unwrap_err();
        assert!(std::format!("{refused}").starts_with("0x100000-0x110000: "));
        assert!(std::format!("{refused}").contains("no whole grain behind the first page"));
        assert_eq!(std::format!("{refused:?}"), "BadRegion { why: NoGrain, start: 0x100000, end: 0x110000 }");
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_name() {
        let good = Config::region(0x10_0000..0x80_0000);
        assert_eq!(good.validate(1), Ok(()));
        assert_eq!(good.validate(0), Err(InitError::BadCpus(0)));
        assert_eq!(good.validate(257), Err(InitError::BadCpus(257)));
        let refused = Config::region(0x10_0000..0x80_0001);
        assert_eq!(refused.validate(1), Err(bad(RegionFault::NotAligned, 0x10_0000, 0x80_0001)));
        let null = Config::region(0..0x80_0000);
        assert_eq!(null.validate(1), Err(bad(RegionFault::HoldsNull, 0, 0x80_0000)));
        let empty = Config::region(0x10_0000..0x10_0000);
        assert_eq!(empty.validate(1), Err(bad(RegionFault::NoGrain, 0x10_0000, 0x10_0000)));
        let wide = Config::region(0x1000..(1 << 54) + (1 << 30));
        assert_eq!(wide.validate(1), Err(bad(RegionFault::TooManyGrains, 0x1000, (1 << 54) + (1 << 30))));
        let twins = good.clone().add_region(0x7f_f000..0x90_0000);
        assert_eq!(twins.validate(1), Err(InitError::Overlap(0, 1)));
        let many = (1..=4).fold(good, |config, i| config.add_region(i << 28..(i << 28) + 0x100_0000));
        assert_eq!(many.validate(1), Err(InitError::TooManyRegions(5)));
    }

    #[test]
    fn a_region_lies_in_one_half_of_what_the_tables_translate() {
        let good = |start: usize, end: usize, bits| Config::region(start..end).is_canonical(bits) == Ok(());
        let top = usize::MAX - 0xfff;
        for (bits, low, high) in [(48, 1 << 47, 0xffff_8000_0000_0000), (57, 1 << 56, 0xff00_0000_0000_0000)] {
            assert!(good(0x1000, low, bits) && good(high, top, bits));
            assert!(!good(0x1000, low + 0x1000, bits) && !good(low, low + 0x1000, bits));
            assert!(!good(high - 0x1000, top, bits) && !good(0x1000, top, bits));
        }
        assert!(good(0x1000, 1 << 32, 32) && !good(0x1000, (1 << 32) + 0x1000, 32) && !good(top - 0x1000, top, 32));
    }

    #[test]
    fn a_region_narrower_than_a_unit_needs_the_lowest_placement() {
        let narrow = Config::region(0x10_0000..0x10_8000);
        assert!(narrow.validate(1).is_err());
        assert_eq!(narrow.placement(Placement::Lowest).validate(1), Ok(()));
    }

    #[test]
    fn a_region_has_at_most_16_pib_in_units_and_256_tib_in_pages() {
        let start = 0xff80_0000_0000_0000;
        for (placement, grain, most) in [(Placement::Classes, 1 << 18, 1 << 54), (Placement::Lowest, 1 << 12, 1 << 48)]
        {
            // The first grain has the first page.
            let config = |bytes| Config::region(start..start + grain + bytes).placement(placement);
            assert_eq!(config(most).validate(1), Ok(()));
            assert_eq!(config(most + grain - PAGE_SIZE).validate(1), Ok(()), "less than a grain more");
            let end = start + most + 2 * grain;
            assert_eq!(config(most + grain).validate(1), Err(bad(RegionFault::TooManyGrains, start, end)));
        }
    }

    #[test]
    fn a_region_of_its_first_page_alone_serves_nobody() {
        let lowest = |pages: usize| Config::region(0x10_0000..0x10_0000 + (pages << 12)).placement(Placement::Lowest);
        assert!(lowest(1).validate(1).is_err());
        assert_eq!(lowest(2).validate(1), Ok(()));
        let unit = |end| Config::region(0x10_0000..end).validate(1);
        assert!(unit(0x14_0000).is_err(), "its only unit begins with its first page");
        assert_eq!(unit(0x18_0000), Ok(()));
        let last = Config::region(usize::MAX - 0x1fff..usize::MAX - 0xfff);
        assert!(last.validate(1).is_err());
    }
}

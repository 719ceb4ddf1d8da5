//! What a run is made of: all of it follows from a seed.

use super::rng::Rng;
use vmalloc::machine::format::Format;
use vmalloc::units::{Node, PAGE_SIZE, PageRange, Pfn, VirtAddr};
use vmalloc::{Config, Placement, Policy};
use vmalloc_sim::{Bank, Rates, Sim};

/// A device, clear of all memory.
pub const DEVICE: Bank = Bank { first: Pfn(0xf_0000), frames: 64, node: None };

/// Which page tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tables {
    /// x86-64.
    Four,
    /// x86-64 with LA57.
    Five,
    /// x86-32.
    Two,
    /// x86-32 with PAE. No run chooses it by itself.
    Three,
}

/// What a run does beside areas that are made and freed whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acts {
    /// Everything.
    All,
    /// Nothing by parts.
    Whole,
    /// Parts, and no mappings of given frames.
    Parts,
}

impl Acts {
    /// Whether an act is one by parts, where a coin fell so.
    pub fn others(self, coin: usize) -> bool {
        self != Acts::Whole && coin == 0
    }
}

/// A run.
#[derive(Clone, Debug)]
pub struct Setup {
    pub acts: Acts,
    pub seed: u64,
    pub ops: usize,
    pub tables: Tables,
    /// Whether a frame can be mapped twice; where it cannot, pages are their own frames.
    pub aliases: bool,
    pub cpus: u32,
    pub nodes: u64,
    /// Frames of each node.
    pub frames: u64,
    pub first_frame: Pfn,
    pub highmem: Option<Pfn>,
    /// Pages of each region, and the first one's distance from a round address.
    pub regions: usize,
    pub region_pages: usize,
    pub offset_pages: usize,
    pub placement: Placement,
    pub policy: Policy,
    pub batch_pages: Option<usize>,
    pub cached_pages: Option<usize>,
    pub reserve: usize,
    /// Pages of the largest areas.
    pub biggest: usize,
    /// Pages that live when as much is made as is freed.
    pub target: usize,
    pub tlb: usize,
    pub speculate: u64,
    pub interrupt: u64,
    pub migrate: u64,
}

impl Setup {
    pub fn from_seed(seed: u64, ops: usize) -> Setup {
        let rng = &mut Rng::new(seed);
        let tables = rng.pick(&[Tables::Four, Tables::Four, Tables::Four, Tables::Four, Tables::Five, Tables::Two]);
        let frames = rng.pick(&[1024, 2048, 4096]);
        let low = rng.pick(&[Pfn(16), Pfn(16), Pfn(3500)]);
        let first_frame = if tables == Tables::Two { low } else { rng.pick(&[low, Pfn(0xf_fe00)]) };
        // High memory begins between blocks of the largest order.
        let splits = tables == Tables::Two && first_frame == Pfn(16) && frames > 1024 && rng.below(2) == 0;
        let region_pages = rng.pick(&[1500, 4000, 10_000, 60_000]);
        Setup {
            acts: Acts::All,
            seed,
            ops,
            tables,
            aliases: true,
            cpus: 1 + rng.below(8) as u32,
            nodes: rng.pick(&[1, 1, 2]),
            frames,
            first_frame,
            highmem: splits.then_some(Pfn(frames / 2)),
            regions: rng.pick(&[1, 1, 2]),
            region_pages,
            offset_pages: rng.pick(&[0, 64, 77, 300]),
            placement: rng.pick(&[Placement::Classes, Placement::Classes, Placement::Lowest]),
            policy: rng.pick(&[Policy::Unmap, Policy::Strict, Policy::Park, Policy::Keep]),
            batch_pages: rng.pick(&[None, Some(8), Some(64), Some(300)]),
            cached_pages: rng.pick(&[None, Some(20), Some(150)]),
            reserve: rng.pick(&[0, 16]),
            biggest: rng.pick(&[16, 130, 700]),
            target: rng.pick(&[60, 300, frames as usize / 2, frames as usize * 2]).min(region_pages * 2),
            tlb: rng.pick(&[4, 16, 64]),
            speculate: rng.pick(&[4, 16, 64]),
            interrupt: rng.pick(&[0, 16, 64, 256]),
            migrate: rng.pick(&[0, 0, 8, 64]),
        }
    }

    /// A run on a machine whose pages are their own frames, with tables of 64 bits.
    pub fn without_aliases(seed: u64, ops: usize) -> Setup {
        let setup = Setup::from_seed(seed, ops);
        let tables = if setup.tables == Tables::Five { Tables::Five } else { Tables::Four };
        let biggest = setup.biggest.min(setup.page_limit());
        Setup { aliases: false, tables, highmem: None, biggest, ..setup }
    }

    pub fn machine<F: Format>(&self) -> Sim<F> {
        let (speculate, interrupt, migrate) = (self.speculate, self.interrupt, self.migrate);
        let rates = Rates { speculate, interrupt, migrate, evict: 16 };
        let mut builder = Sim::<F>::builder().cpus(self.cpus).seed(self.seed).rates(rates).tlb(self.tlb);
        for node in 0..self.nodes {
            let first = self.first_frame.offset(node * self.frames);
            builder = builder.bank(Bank { first, frames: self.frames, node: Some(Node(node as u8)) });
        }
        if let Some(highmem) = self.highmem {
            builder = builder.highmem(highmem);
        }
        if self.tables == Tables::Five {
            builder = builder.levels(5);
        }
        // Runs of odd seeds have as many address spaces as CPUs may use at once.
        builder = builder.roots(if self.seed % 2 == 1 { 4 } else { 1 });
        if !self.aliases {
            let window = |n| PageRange::new(VirtAddr(self.region(n).start), self.region_pages);
            builder = builder.windows((0..self.regions).map(window), self.page_limit());
        }
        builder.bank(DEVICE).build()
    }

    pub fn config(&self) -> Config {
        let config = Config::region(self.region(0)).placement(self.placement).policy(self.policy);
        let config = (1..self.regions).fold(config, |config, n| config.add_region(self.region(n)));
        let config = config.atomic_reserve(self.reserve);
        let config = self.cached_pages.map_or(config.clone(), |pages| config.cached_pages(pages));
        self.batch_pages.map_or(config.clone(), |pages| config.batch_pages(pages))
    }

    /// The addresses of a region.
    pub fn region(&self, n: usize) -> std::ops::Range<usize> {
        let round = match self.tables {
            // Entries can name these pages as frames.
            Tables::Four | Tables::Five if !self.aliases => 1 << 36,
            Tables::Four => 0xffff_c900_0000_0000,
            Tables::Five => 0xffa0_0000_0000_0000,
            Tables::Two | Tables::Three => 0xc000_0000,
        };
        let start = round + (self.offset_pages + n * 2 * self.region_pages) * PAGE_SIZE;
        start..start + self.region_pages * PAGE_SIZE
    }

    /// Pages that areas may have together, where pages are their own frames.
    pub fn page_limit(&self) -> usize {
        self.frames as usize / 4
    }

    /// The first address of a region that can be handed out: its first page is
    /// nobody's.
    pub fn base(&self, n: usize) -> usize {
        (self.region(n).start + PAGE_SIZE).next_multiple_of(self.grain_pages() * PAGE_SIZE)
    }

    /// Pages that runs are multiples of.
    pub fn grain_pages(&self) -> usize {
        if self.placement == Placement::Classes { 64 } else { 1 }
    }

    /// Whether a frame has a direct mapping.
    pub fn is_direct(&self, frame: Pfn) -> bool {
        self.highmem.is_none_or(|from| frame < from)
    }
}

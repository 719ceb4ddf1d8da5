//! The MMU: translating through the caches, and asking the tables themselves.
//!
//! A CPU looks for a page in its TLB, then for the deepest table of that
//! address in its paging-structure cache, and walks from there through real
//! memory, keeping what it passes. Not-present entries are never kept. Each
//! use of something cached is compared with the truth, see [`judge`](crate::judge).

use crate::cache::{Cached, How};
use crate::cpu::{Power, State};
use crate::history::Event;
use crate::{Core, ORDER, Why};
use vmalloc::machine::format::{Entry, Format, Prot, Word};
use vmalloc::units::{PAGE_SHIFT, PageRange, Pfn, VirtAddr};

/// Where a walk has come to: the entry of `level` in `table` is next.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) table: Pfn,
    pub(crate) level: u8,
}

/// The address bits that select an entry of `level`, as the lowest bits.
pub(crate) fn prefix<F: Format>(at: VirtAddr, level: u8) -> usize {
    at.0 >> (PAGE_SHIFT + F::INDEX_BITS * (level as u32 - 1))
}

/// The pages that an entry of `level` with this prefix is for.
pub(crate) fn covered<F: Format>(level: u8, prefix: usize) -> PageRange {
    let bits = F::INDEX_BITS * (level as u32 - 1);
    PageRange::new(VirtAddr(prefix << (bits + PAGE_SHIFT)), 1 << bits)
}

/// Whether two ranges have a page in common; they may end where the address
/// space does.
pub(crate) fn overlap(a: PageRange, b: PageRange) -> bool {
    a.contains(b.start) || b.contains(a.start)
}

impl<F: Format> Core<F> {
    /// What memory holds at `place` for `at`; `None` where no memory is.
    pub(crate) fn read(&self, place: Place, at: VirtAddr) -> Option<Entry> {
        self.word(place, at).map(|word| F::decode(word, place.level))
    }

    pub(crate) fn word(&self, place: Place, at: VirtAddr) -> Option<F::Word> {
        let index = prefix::<F>(at, place.level) & ((1 << F::INDEX_BITS) - 1);
        let word = self.memory.entry::<F::Word>(place.table, index)?;
        // SAFETY: W1: `entry` is aligned and inside the simulated memory.
        Some(unsafe { F::Word::load(word.as_ptr()) })
    }

    pub(crate) fn write(&self, place: Place, at: VirtAddr, word: F::Word) {
        let index = prefix::<F>(at, place.level) & ((1 << F::INDEX_BITS) - 1);
        let entry = self.memory.entry::<F::Word>(place.table, index).expect("a table in memory");
        // SAFETY: W1, as for reading.
        unsafe { F::Word::store(entry.as_ptr(), word) }
    }

    pub(crate) fn top(&self) -> Place {
        Place { table: self.root, level: self.levels }
    }

    /// Where the walks of `cpu` begin: at the root that it has.
    fn top_of(&self, cpu: u32) -> Place {
        Place { table: self.roots[cpu as usize % self.roots.len()], level: self.levels }
    }

    /// What an embedder's fault handler does: `cpu`'s root gets the entry for `at`
    /// that the library's has and it lacks. True = there was one.
    pub(crate) fn copy_on_fault(&self, cpu: u32, at: VirtAddr) -> bool {
        let (own, top) = (self.top_of(cpu), self.top());
        let lacks = self.read(own, at) == Some(Entry::Absent);
        match self.word(top, at) {
            Some(word) if lacks && F::decode(word, top.level) != Entry::Absent => {
                self.write(own, at, word);
                true
            }
            _ => false,
        }
    }

    /// What the tables say of `at`, read down to the entry of level `down_to`,
    /// and where the last entry read stands.
    pub(crate) fn truth(&self, at: VirtAddr, down_to: u8) -> (Place, Entry) {
        let mut place = self.top();
        loop {
            match self.read(place, at).unwrap_or(Entry::Bad) {
                Entry::Table(table) if place.level > down_to => place = Place { table, level: place.level - 1 },
                entry => return (place, entry),
            }
        }
    }

    /// The frame and protection of the page of `at`, as `cpu` sees them.
    pub(crate) fn translate(&self, s: &mut State, cpu: u32, at: VirtAddr, how: How) -> Result<(Pfn, Prot), Why> {
        if !self.is_canonical(at) {
            return Err(Why::NotCanonical);
        }
        if let Some(hit) = s.cpu(cpu).tlb.find(1, prefix::<F>(at, 1)) {
            s.counters.hits += 1;
            if s.cpu(cpu).power.reaches(1) && self.judge(s, cpu, &hit) {
                s.counters.used_after_free += (how == How::Access) as u64;
                s.history.note(cpu, Event::UsedAfterFree { at, frame: hit.frame });
            }
            return Ok((hit.frame, hit.prot));
        }
        s.counters.walks += 1;
        let start = self.deepest(s, cpu, at);
        self.walk(s, cpu, at, start, how)
    }

    /// Where a walk begins: below the deepest table that `cpu` remembers.
    fn deepest(&self, s: &mut State, cpu: u32, at: VirtAddr) -> Place {
        let cached = (2..=self.levels).find_map(|level| s.cpu(cpu).tables.find(level, prefix::<F>(at, level)));
        let Some(cached) = cached else { return self.top_of(cpu) };
        self.judge(s, cpu, &cached);
        Place { table: cached.frame, level: cached.level - 1 }
    }

    fn walk(&self, s: &mut State, cpu: u32, at: VirtAddr, start: Place, how: How) -> Result<(Pfn, Prot), Why> {
        let mut place = start;
        loop {
            match self.read(place, at) {
                Some(Entry::Table(table)) if place.level > 1 => {
                    self.keep(s, cpu, place.level, at, (table, Prot::RW), how);
                    place = Place { table, level: place.level - 1 };
                }
                // A page that the machine was not told of is none for a program.
                Some(Entry::Leaf { frame, .. })
                    if place.level == 1 && how == How::Access && !s.told.knows(prefix::<F>(at, 1), frame) =>
                {
                    return Err(Why::Untold);
                }
                Some(Entry::Leaf { frame, prot }) => {
                    let inside = prefix::<F>(at, 1) & (covered::<F>(place.level, 0).pages - 1);
                    let found = (frame.offset(inside as u64), prot);
                    self.keep(s, cpu, 1, at, found, how);
                    return Ok(found);
                }
                _ => return Err(Why::NotPresent { level: place.level }),
            }
        }
    }

    /// `cpu` keeps an entry that it has just read.
    fn keep(&self, s: &mut State, cpu: u32, level: u8, at: VirtAddr, (frame, prot): (Pfn, Prot), how: How) {
        let since = match level {
            1 => s.history.note(cpu, Event::Page { at: at.page_start(), frame, how }),
            _ => s.history.note(cpu, Event::Table { level, at, frame, how }),
        };
        let entry = Cached { level, prefix: prefix::<F>(at, level), frame, prot, since, how };
        if s.cpu(cpu).power.reaches(level) {
            s.judge_direct(&entry);
        }
        let State { cpus, rng, .. } = s;
        let cpu = &mut cpus[cpu as usize];
        let power = cpu.power;
        self.count(power, &entry, 1);
        if let Some(lost) = cpu.cache(level).insert(entry, rng) {
            self.count(power, &lost, -1);
        }
    }

    /// Adds to the count of the CPUs that reach the frame of `entry`.
    pub(crate) fn count(&self, power: Power, entry: &Cached, by: i32) {
        let Some(meta) = self.memory.meta(entry.frame).filter(|_| power.reaches(entry.level)) else { return };
        let count = if entry.level == 1 { &meta.tlb } else { &meta.tables };
        count.store(count.load(ORDER).wrapping_add_signed(by), ORDER);
    }

    /// `cpu` forgets the entries that `which` picks.
    pub(crate) fn forget(&self, s: &mut State, cpu: u32, which: impl Fn(&Cached) -> bool) {
        let cpu = s.cpu(cpu);
        let power = cpu.power;
        cpu.tlb.forget(&which, |gone| self.count(power, &gone, -1));
        cpu.tables.forget(&which, |gone| self.count(power, &gone, -1));
    }

    /// `cpu` loses an entry or two by chance, as caches do.
    pub(crate) fn evict(&self, s: &mut State, cpu: u32) {
        let State { cpus, rng, .. } = s;
        let cpu = &mut cpus[cpu as usize];
        let lost = [cpu.tlb.evict(rng), cpu.tables.evict(rng)];
        lost.iter().flatten().for_each(|gone| self.count(cpu.power, gone, -1));
    }

    /// `cpu` picks up an entry of its own accord.
    pub(crate) fn guess(&self, s: &mut State, cpu: u32) {
        if s.cpu(cpu).power == Power::Offline {
            return;
        }
        let Some(at) = s.guess() else { return };
        s.counters.speculations += 1;
        // What it finds has no effect but the one on the caches.
        let _ = self.translate(s, cpu, at, How::Speculation);
    }

    /// Whether the bits above those that are translated repeat the top one;
    /// on 32 bits there are none above.
    fn is_canonical(&self, at: VirtAddr) -> bool {
        let bits = PAGE_SHIFT + F::INDEX_BITS * self.levels as u32;
        match at.0 as u64 {
            low if bits <= 32 => low >> bits == 0,
            at => matches!(at as i64 >> (bits - 1), 0 | -1),
        }
    }
}

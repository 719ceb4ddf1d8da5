//! Flushes: when has every CPU discarded the translations that it may hold?
//!
//! Time is counted in **epochs**. A batch that needs a flush is sealed under a **tag**, which is
//! the epoch that begins with the seal. **Grace** for the tag comes when every CPU has discarded
//! its translations since. The batch is reclaimed then.
//!
//! ```text
//!   open ──seal: tag = now += 1──▶ Pending(tag) ──grace ≥ tag──▶ reclaimed
//! ```
//!
//! # Rules
//! - **G1 sealing.** The entries are cleared first. Then `tag = now.fetch_add(1) + 1` (SeqCst, so
//!   that walkers see the cleared entries). A CPU flushes in three steps: it reads the epoch e,
//!   discards everything, and publishes `max(published, e)`. A tag has grace when every CPU has
//!   published at least the tag. If the batch of tag e is a few pages, and this CPU has published e
//!   − 1, it may discard these pages only.
//! - G3, by type: a batch that waits is owned by [`Pending`]. [`Pending::reclaim`] with a [`Grace`]
//!   is the only way to get it out.
//! - **G5 idle.** A CPU that goes idle publishes, sets *idle*, and executes a full fence. A CPU
//!   that leaves idle clears *idle*, executes a full fence, reads the epoch, and flushes if it is
//!   behind, all before it follows a pointer. A sealer that reads *idle* after its `fetch_add` may
//!   therefore skip that CPU. It may not skip it if the batch holds table pages (`idle_too`),
//!   because a speculative walk through a reused table page could write to it. Offline CPUs hold no
//!   translations, and flush before they come back.
//! - **G7 kicks coalesce.** A CPU clears `asked` before it reads the epoch. A sealer that finds
//!   `asked` set need not kick, because the coming flush covers its tag.
//!
//! # Locks
//! None. Every function here may be called from any context, even from an NMI.

mod alias;
mod looks;
mod narrow;

use crate::sync::{AtomicBool, AtomicU8, AtomicU64, Ordering::*, breaks, fence};
use crate::units::PageRange;
use alias::Aliases;
pub use looks::Looks;
use narrow::Narrow;

/// What a CPU begins with.
const OFFLINE: u8 = 0;
const IDLE: u8 = 1;
const AWAKE: u8 = 2;

/// The flush state of one CPU: the epoch that it has published, and whether it is asked to flush.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct CpuEpoch {
    published: AtomicU64,
    state: AtomicU8,
    asked: AtomicBool,
}

impl CpuEpoch {
    fn holds_up(&self, idle_too: bool) -> bool {
        match self.state.load(SeqCst) {
            OFFLINE => false,
            IDLE => idle_too,
            _ => true,
        }
    }

    fn publish(&self, epoch: u64) {
        self.published.fetch_max(epoch, SeqCst);
    }

    /// Whether the CPU is idle or offline: it makes no call until it is awake again.
    #[inline]
    pub fn is_asleep(&self) -> bool {
        self.state.load(Relaxed) != AWAKE
    }

    /// Whether the CPU is offline.
    pub fn is_offline(&self) -> bool {
        self.state.load(Relaxed) == OFFLINE
    }

    /// Whether a flush was asked for and has not begun.
    #[inline]
    pub fn is_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// On its own CPU: marks that a flush is coming, so that nobody has to kick (G7).
    pub fn put_off(&self) {
        self.asked.store(true, SeqCst);
    }

    /// Asks for a flush. Returns true if the caller has to send a kick (G7).
    fn ask(&self, tag: u64) -> bool {
        self.published.load(SeqCst) < tag && !self.asked.swap(true, SeqCst)
    }
}

/// The contents of a batch that is sealed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Holds {
    /// It holds table pages (G5).
    pub tables: bool,
    /// It holds aliases: [`FlushEpochs::note_alias`] was called for it (G3, aliases).
    pub aliases: bool,
    /// All of its pages, if they are few (G1, ranges).
    pub narrow: Option<PageRange>,
}

/// The clock of an instance's flushes.
#[derive(Debug, Default)]
pub struct FlushEpochs {
    now: AtomicU64,
    /// Every batch without table pages whose tag is at most this has had grace.
    safe: AtomicU64,
    /// The same, for batches with table pages.
    safe_tables: AtomicU64,
    narrow: Narrow,
    aliases: Aliases,
}

impl FlushEpochs {
    /// Seals `value`: it waits for flushes that begin after this call (G1). `idle_too` is true if
    /// it holds table pages (G5).
    pub fn seal<T>(&self, value: T, idle_too: bool) -> Pending<T> {
        let tag = if breaks!(SealOld) { self.now.load(SeqCst) } else { self.now.fetch_add(1, SeqCst) + 1 };
        Pending { tag, idle_too, value }
    }

    /// As [`FlushEpochs::seal`], for a batch that holds `pages` and no table page.
    pub fn seal_narrow<T>(&self, value: T, pages: PageRange) -> Pending<T> {
        let pending = self.seal(value, false);
        self.narrow.store(pending.tag, pages);
        pending
    }

    /// Seals a batch. It gets grace when every CPU has flushed since, which nobody is asked to do
    /// before [`FlushEpochs::ask`].
    pub fn seal_batch<T>(&self, batch: T, holds: Holds) -> Pending<T> {
        let pending = match holds.narrow {
            Some(pages) if !holds.tables => self.seal_narrow(batch, pages),
            _ => self.seal(batch, holds.tables),
        };
        if holds.aliases {
            self.seal_aliases(pending.tag);
        }
        pending
    }

    /// Flushes the CPU of `epoch` (G1). `flush` discards the pages that it is given, or everything
    /// for `None`.
    pub fn flush(&self, epoch: &CpuEpoch, flush: impl FnOnce(Option<PageRange>)) {
        epoch.asked.swap(false, SeqCst);
        let now = self.now.load(SeqCst);
        let one_behind = epoch.published.load(SeqCst) + 1 == now;
        flush(one_behind.then(|| self.narrow.of(now)).flatten());
        epoch.publish(now);
    }

    /// As [`FlushEpochs::flush`], but only if the CPU is behind or was asked.
    pub fn catch_up(&self, epoch: &CpuEpoch, flush: impl FnOnce(Option<PageRange>)) {
        if self.is_behind(epoch) {
            self.flush(epoch, flush);
        }
    }

    /// Whether the CPU of `epoch` has something to discard, or was asked to flush.
    pub fn is_behind(&self, epoch: &CpuEpoch) -> bool {
        epoch.asked.load(SeqCst) || epoch.published.load(SeqCst) < self.now.load(SeqCst)
    }

    /// Runs a flush of everything on all CPUs. `flush` returns whether it succeeded, and so does
    /// this call.
    pub fn flush_everywhere(&self, flush: impl FnOnce() -> bool) -> bool {
        let now = self.now.load(SeqCst);
        let done = flush();
        if done {
            self.safe.fetch_max(now, SeqCst);
            self.safe_tables.fetch_max(now, SeqCst);
        }
        done
    }

    /// Idle entry. The CPU touches no area until [`FlushEpochs::wake`] (G5).
    pub fn sleep(&self, epoch: &CpuEpoch, flush: impl FnOnce(Option<PageRange>)) {
        self.catch_up(epoch, flush);
        epoch.state.store(IDLE, SeqCst);
        fence(SeqCst);
    }

    /// Idle exit, and the way online. Flushes if the CPU is behind, before it follows any pointer
    /// (G5).
    pub fn wake(&self, epoch: &CpuEpoch, flush: impl FnOnce(Option<PageRange>)) {
        epoch.state.store(AWAKE, SeqCst);
        fence(SeqCst);
        self.catch_up(epoch, flush);
    }

    /// The CPU goes offline. It touches no area until [`FlushEpochs::wake`].
    pub fn leave(&self, epoch: &CpuEpoch) {
        epoch.state.store(OFFLINE, SeqCst);
    }

    /// Asks the CPUs that `pending` waits for. Calls `kick` with the index of each that was not
    /// asked yet.
    pub fn ask<'e, T>(
        &self,
        pending: &Pending<T>,
        epochs: impl Iterator<Item = &'e CpuEpoch>,
        mut kick: impl FnMut(u32),
    ) {
        // G5: a CPU that is idle from here on will read this tag when it wakes.
        fence(SeqCst);
        for (cpu, epoch) in epochs.enumerate() {
            if epoch.holds_up(pending.idle_too) && epoch.ask(pending.tag) {
                kick(cpu as u32);
            }
        }
    }

    /// Computes the present grace.
    ///
    /// # Cost
    /// O(CPUs).
    pub fn grace<'e>(&self, epochs: impl Iterator<Item = &'e CpuEpoch>) -> Grace {
        let now = self.now.load(SeqCst);
        let (mut awake, mut all) = (now, now);
        // G5, as in `ask`.
        fence(SeqCst);
        for epoch in epochs {
            // The state is read before the epoch. A CPU that wakes in between has then flushed
            // already.
            let (busy, online) = (epoch.holds_up(false), epoch.holds_up(true));
            let published = epoch.published.load(SeqCst);
            awake = if busy { awake.min(published) } else { awake };
            all = if online { all.min(published) } else { all };
        }
        self.safe.fetch_max(awake, SeqCst);
        self.safe_tables.fetch_max(all, SeqCst);
        self.grace_so_far()
    }

    /// The grace that was computed last.
    pub fn grace_so_far(&self) -> Grace {
        Grace { safe: self.safe.load(SeqCst), safe_tables: self.safe_tables.load(SeqCst) }
    }
}

/// Proof that every CPU has flushed since certain tags were sealed.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    safe: u64,
    safe_tables: u64,
}

impl Grace {
    /// A false proof, with which a test breaks G3 on purpose.
    pub(crate) const STOLEN: Grace = Grace { safe: u64::MAX, safe_tables: u64::MAX };
    /// A proof that skips idle CPUs, with which a test breaks G5 on purpose.
    pub(crate) fn ignoring_idle(self) -> Grace {
        Grace { safe_tables: self.safe, ..self }
    }
}

/// Owns a batch that waits for a flush (G3). Dropping it leaks the batch, which is safe: it cannot
/// be reused.
#[must_use = "what waits in it leaks unless it is reclaimed"]
#[derive(Debug)]
pub struct Pending<T> {
    tag: u64,
    idle_too: bool,
    value: T,
}

impl<T> Pending<T> {
    /// Returns the batch once grace has come.
    ///
    /// # Errors
    /// `self`, before that.
    pub fn reclaim(self, grace: &Grace) -> Result<T, Pending<T>> {
        let safe = if self.idle_too { grace.safe_tables } else { grace.safe };
        if self.tag <= safe { Ok(self.value) } else { Err(self) }
    }

    /// An empty batch that gets grace at the same time, to wait for.
    pub fn barrier(&self) -> Pending<()> {
        Pending { tag: self.tag, idle_too: self.idle_too, value: () }
    }

    /// The batch, for a look only.
    pub fn peek(&self) -> &T {
        &self.value
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn nothing(_: Option<PageRange>) {}

    fn awake<const N: usize>(flush_epochs: &FlushEpochs) -> [CpuEpoch; N] {
        core::array::from_fn(|_| {
            let epoch = CpuEpoch::default();
            flush_epochs.wake(&epoch, nothing);
            epoch
        })
    }

    #[test]
    fn grace_comes_when_every_cpu_has_flushed_since() {
        let flush_epochs = FlushEpochs::default();
        let epochs: [CpuEpoch; 2] = awake(&flush_epochs);
        let pending = flush_epochs.seal("batch", false);
        let pending = pending.reclaim(&flush_epochs.grace(epochs.iter())).unwrap_err();
        flush_epochs.flush(&epochs[0], nothing);
        let pending = pending.reclaim(&flush_epochs.grace(epochs.iter())).unwrap_err();
        flush_epochs.flush(&epochs[1], nothing);
        assert_eq!(pending.reclaim(&flush_epochs.grace(epochs.iter())).ok(), Some("batch"));
    }

    #[test]
    fn a_flush_that_began_before_closing_does_not_count() {
        let flush_epochs = FlushEpochs::default();
        let epochs: [CpuEpoch; 1] = awake(&flush_epochs);
        let mut pending = None;
        flush_epochs.flush(&epochs[0], |_| pending = Some(flush_epochs.seal((), false)));
        assert!(pending.unwrap().reclaim(&flush_epochs.grace(epochs.iter())).is_err());
    }

    #[test]
    fn an_idle_cpu_is_skipped_unless_table_pages_wait() {
        let flush_epochs = FlushEpochs::default();
        let epochs: [CpuEpoch; 2] = awake(&flush_epochs);
        flush_epochs.sleep(&epochs[1], nothing);
        let (frames, tables) = (flush_epochs.seal(1, false), flush_epochs.seal(2, true));
        flush_epochs.flush(&epochs[0], nothing);
        let grace = flush_epochs.grace(epochs.iter());
        assert_eq!(frames.reclaim(&grace).ok(), Some(1));
        let tables = tables.reclaim(&grace).unwrap_err();
        let mut flushed = false;
        flush_epochs.wake(&epochs[1], |_| flushed = true);
        assert!(flushed, "it was behind, so it must flush before it does anything");
        assert_eq!(tables.reclaim(&flush_epochs.grace(epochs.iter())).ok(), Some(2));
    }

    #[test]
    fn an_offline_cpu_holds_nobody_up_and_flushes_before_it_rejoins() {
        let flush_epochs = FlushEpochs::default();
        let epochs: [CpuEpoch; 2] = awake(&flush_epochs);
        flush_epochs.leave(&epochs[1]);
        let pending = flush_epochs.seal((), true);
        flush_epochs.flush(&epochs[0], nothing);
        assert!(pending.reclaim(&flush_epochs.grace(epochs.iter())).is_ok());
        let mut flushed = false;
        flush_epochs.wake(&epochs[1], |_| flushed = true);
        assert!(flushed);
    }

    #[test]
    fn a_cpu_is_kicked_once_until_it_has_flushed() {
        let flush_epochs = FlushEpochs::default();
        let epochs: [CpuEpoch; 2] = awake(&flush_epochs);
        flush_epochs.sleep(&epochs[0], nothing);
        let mut kicks = [0; 2];
        let pending = flush_epochs.seal((), false);
        for _ in 0..3 {
            flush_epochs.ask(&pending, epochs.iter(), |cpu| kicks[cpu as usize] += 1);
        }
        assert_eq!(kicks, [0, 1]);
        flush_epochs.flush(&epochs[1], nothing);
        flush_epochs.ask(&pending, epochs.iter(), |cpu| kicks[cpu as usize] += 1);
        assert_eq!(kicks, [0, 1], "it has published, nobody needs to ask again");
    }

    #[test]
    fn one_flush_everywhere_is_grace_for_all_unless_it_failed() {
        let flush_epochs = FlushEpochs::default();
        let epochs: [CpuEpoch; 2] = awake(&flush_epochs);
        let pending = flush_epochs.seal((), true);
        assert!(!flush_epochs.flush_everywhere(|| false));
        let pending = pending.reclaim(&flush_epochs.grace(epochs.iter())).unwrap_err();
        assert!(flush_epochs.flush_everywhere(|| true));
        assert!(pending.reclaim(&flush_epochs.grace_so_far()).is_ok());
    }

    #[test]
    fn what_is_closed_during_a_flush_everywhere_waits_for_the_next_one() {
        let flush_epochs = FlushEpochs::default();
        let mut late = None;
        let during = || {
            late = Some(flush_epochs.seal((), false));
            true
        };
        assert!(flush_epochs.flush_everywhere(during));
        let late = late.unwrap().reclaim(&flush_epochs.grace_so_far()).unwrap_err();
        assert!(flush_epochs.flush_everywhere(|| true));
        assert!(late.reclaim(&flush_epochs.grace_so_far()).is_ok());
    }

    fn pages(n: usize) -> PageRange {
        PageRange::new(crate::units::VirtAddr(0xffff_c900_0000_0000), n)
    }

    /// The pages that the CPU of `epoch` is given to discard.
    fn told(flush_epochs: &FlushEpochs, epoch: &CpuEpoch) -> Option<PageRange> {
        let mut told = None;
        flush_epochs.flush(epoch, |what| told = what);
        told
    }

    #[test]
    fn a_cpu_that_is_one_small_load_behind_discards_its_pages_alone() {
        let flush_epochs = FlushEpochs::default();
        let epochs: [CpuEpoch; 3] = awake(&flush_epochs);
        let first = flush_epochs.seal_narrow("batch", pages(3));
        assert_eq!(told(&flush_epochs, &epochs[0]), Some(pages(3)));
        assert_eq!(told(&flush_epochs, &epochs[0]), None, "nothing is known of what it may hold by now");
        let second = flush_epochs.seal_narrow("batch", pages(5));
        assert_eq!(told(&flush_epochs, &epochs[0]), Some(pages(5)));
        assert_eq!(told(&flush_epochs, &epochs[1]), None, "two behind: everything");
        assert_eq!(told(&flush_epochs, &epochs[2]), None);
        let grace = flush_epochs.grace(epochs.iter());
        assert!(first.reclaim(&grace).is_ok() && second.reclaim(&grace).is_ok());
    }

    #[test]
    fn a_load_of_unknown_pages_makes_everybody_discard_everything() {
        let flush_epochs = FlushEpochs::default();
        let epochs: [CpuEpoch; 1] = awake(&flush_epochs);
        let _small = flush_epochs.seal_narrow((), pages(3));
        let _large = flush_epochs.seal((), false);
        assert_eq!(told(&flush_epochs, &epochs[0]), None);
        let _small = flush_epochs.seal_narrow((), pages(4));
        let _tables = flush_epochs.seal((), true);
        assert_eq!(told(&flush_epochs, &epochs[0]), None);
    }
}

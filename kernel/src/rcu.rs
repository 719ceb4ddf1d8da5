//! Frees after a grace period: `kvfree_rcu`.
//!
//! A reader of a structure that others change may hold a pointer to a block that was taken
//! out a moment ago. So the block is freed when every reader of that moment has ended, which
//! the host tells ([`Host::rcu_begin`], [`Host::rcu_passed`]).
//!
//! ```text
//!   kvfree_rcu ──▶ new ── a grace period begins ──▶ waiting ── it has passed ──▶ ready ──▶ kvfree
//! ```
//!
//! Each call moves on what can move, and frees two blocks that are ready: so nothing is done
//! all at once, and what is ready is gone before the next blocks are. Of two arguments the
//! second is a head in the block itself, and the call needs no memory. Of one argument the call
//! takes a page for many blocks, or, where it gets none, waits for a grace period itself.
//!
//! # Rules
//! - **J21** A block that waits is whole: nobody frees it, and it is in one list. A head has its block's
//!   address mixed with the head before it, so that a head is told from other data: what is given
//!   twice is refused, and where a head was written over, the list ends, which is told.
//!
//! Source: `kvfree_rcu(ptr, head)`, `kvfree_rcu_mightsleep(ptr)`, `kvfree_rcu_barrier()`.

use crate::call::Value;
use crate::error::Error;
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::memory::Place;
use crate::sync::{AtomicUsize, Ordering::*, breaks};
use core::mem::take;
use core::ptr::with_exposed_provenance;
use vmalloc::machine::{Context, Machine};
use vmalloc::units::{PAGE_SIZE, Pfn};

const WORD: usize = size_of::<usize>();
/// Bytes of a head: the block that it is in, and the head that came before.
pub const RCU_HEAD: usize = 2 * WORD;
/// Blocks that a call frees at most: more than it adds.
const STEP: usize = 2;
/// Blocks that a page names, behind the link to the page before.
const IN_PAGE: usize = PAGE_SIZE / WORD - 1;

/// What a block's address is mixed with in a head. Odd: no data of zeros is a head.
const fn mark(before: usize) -> usize {
    before.rotate_left(usize::BITS / 2) ^ 0x9e37_79b9_7f4a_7c15_u64 as usize
}

/// What is ready.
enum Ready {
    /// A block.
    Block(usize),
    /// A page that named some.
    Page(Pfn),
    /// Blocks that cannot be found any more: the head here was written over.
    Lost(usize),
}

/// Blocks in one state.
#[derive(Default)]
struct List {
    /// The head that came last; 0 = none.
    head: usize,
    /// The page that came last, and the blocks in it.
    page: Option<Pfn>,
    used: usize,
}

impl List {
    const NONE: List = List { head: 0, page: None, used: 0 };

    fn is_empty(&self) -> bool {
        self.head == 0 && self.page.is_none()
    }

    /// Adds a block to the page; false = there is no room.
    fn push<M: Machine>(&mut self, machine: &M, block: usize) -> bool {
        let Some(page) = self.page.filter(|_| self.used < IN_PAGE) else { return false };
        // SAFETY: the frame is the list's own, reached by the direct mapping, with room for it.
        unsafe { machine.virt(page).cast::<usize>().add(1 + self.used).write(block) };
        self.used += 1;
        true
    }

    /// Adds a page, if the one before is full; else it comes back.
    fn give<M: Machine>(&mut self, machine: &M, page: Pfn) -> Option<Pfn> {
        if self.page.is_some() && self.used < IN_PAGE {
            return Some(page);
        }
        let link = self.page.replace(page).map_or(0, |page| page.0 as usize + 1);
        // SAFETY: as in `push`.
        unsafe { machine.virt(page).cast::<usize>().write(link) };
        self.used = 0;
        None
    }

    /// The block that a page named last, and the page if it was its last one.
    fn pop<M: Machine>(&mut self, machine: &M) -> Option<(usize, Option<Pfn>)> {
        let page = self.page?;
        let words = machine.virt(page).cast::<usize>();
        let Some(last) = self.used.checked_sub(1) else {
            // SAFETY: `give` has written the link.
            let link = unsafe { words.read() };
            (self.page, self.used) = (link.checked_sub(1).map(|page| Pfn(page as u64)), IN_PAGE);
            return Some((0, Some(page)));
        };
        self.used = last;
        // SAFETY: `push` has written it.
        Some((unsafe { words.add(1 + last).read() }, None))
    }
}

/// All blocks that wait.
pub(crate) struct Waiting {
    new: List,
    waiting: List,
    /// The grace period that `waiting` waits for.
    grace: u64,
    ready: List,
}

impl Waiting {
    pub(crate) const fn new() -> Waiting {
        Waiting { new: List::NONE, waiting: List::NONE, grace: 0, ready: List::NONE }
    }

    /// Moves on what can move; `heads` has the new blocks that came with a head. Whether
    /// anything waits.
    fn advance(&mut self, host: &impl Host, heads: &AtomicUsize) -> bool {
        if self.ready.is_empty() && !self.waiting.is_empty() && host.rcu_passed(self.grace) {
            self.ready = take(&mut self.waiting);
        }
        if self.waiting.is_empty() {
            self.waiting = List { head: heads.swap(0, AcqRel), ..take(&mut self.new) };
            if !self.waiting.is_empty() {
                self.grace = host.rcu_begin();
            }
        }
        !self.waiting.is_empty()
    }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Frees the block at `at`, of the slab or an area, after a grace period. `head` is the
    /// address of [`RCU_HEAD`] bytes in it, aligned to a word, which no reader looks at. Null is
    /// nothing.
    ///
    /// # Errors
    /// [`Error::NoArea`] or one of [`Kernel::ksize`] where no block starts at `at`;
    /// [`Error::WrongFlags`] for an area whose memory is not its own; [`Error::BadArgument`] for a head
    /// that does not lie in it; [`Error::DoubleFree`] for one by which the block waits already;
    /// [`Error::WrongContext`] in an NMI. Nothing has changed then.
    ///
    /// # Safety
    /// Y1, but for readers that the grace period waits for.
    ///
    /// # Cost
    /// A lookup, a lock, and two frees that are due.
    pub unsafe fn kvfree_rcu(&self, at: *const u8, head: usize) -> Result<(), Error> {
        let _call = self.enter("kvfree_rcu", &[("ptr", Value::Address(at.addr())), ("head", Value::Address(head))]);
        if at.is_null() {
            return Ok(());
        }
        let (place, bytes) = self.block_at(at)?;
        let offset = head.wrapping_sub(at.addr());
        if head < at.addr() || offset.saturating_add(RCU_HEAD) > bytes || !offset.is_multiple_of(WORD) {
            return Err(Error::BadArgument(head));
        }
        if self.machine().context() == Context::Nmi {
            return Err(Error::WrongContext(Context::Nmi));
        }
        if self.read_head(place.plus(offset))?.0 == at.addr() {
            return Err(Error::DoubleFree(at.addr()));
        }
        self.push_head(at.addr(), place.plus(offset), head)?;
        // What is ready is freed by a later call, where this one may not.
        let _ = self.free_ready(STEP);
        Ok(())
    }

    /// Adds a block to those that came with a head.
    fn push_head(&self, block: usize, place: Place, head: usize) -> Result<(), Error> {
        let mut before = self.rcu_heads.load(Relaxed);
        loop {
            let words = [block ^ mark(before), before].map(usize::to_ne_bytes);
            self.write_place(place, words.as_flattened())?;
            // Others may free it as soon as it is in the list.
            self.ignore_own(block);
            if breaks!(HeadStored) {
                self.rcu_heads.store(head, Release);
                return Ok(());
            }
            match self.rcu_heads.compare_exchange_weak(before, head, Release, Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => before = now,
            }
        }
    }

    /// The block of the head at `place`, if a head is there, and the head before it.
    fn read_head(&self, place: Place) -> Result<(usize, usize), Error> {
        let mut words = [[0; WORD]; 2];
        self.read_place(place, words.as_flattened_mut())?;
        let [block, before] = words.map(usize::from_ne_bytes);
        Ok((block ^ mark(before), before))
    }

    /// As [`Kernel::kvfree_rcu`], without a head: it takes a page for every 511 blocks, or else
    /// waits for a grace period. By a task.
    ///
    /// # Errors
    /// As there; [`Error::WrongContext`] where nobody may wait.
    ///
    /// # Safety
    /// Y1, but for readers that the grace period waits for.
    pub unsafe fn kvfree_rcu_mightsleep(&self, at: *const u8) -> Result<(), Error> {
        let _call = self.enter("kvfree_rcu_mightsleep", &[("ptr", Value::Address(at.addr()))]);
        if at.is_null() {
            return Ok(());
        }
        self.not_in_interrupt()?;
        self.block_at(at)?;
        self.ignore_own(at.addr());
        let machine = self.machine();
        while !self.locked(&self.waiting, |waiting| waiting.new.push(machine, at.addr()))? {
            let Ok(page) = self.bookkeeping_frame((GfpFlags::KERNEL | GfpFlags::NOWARN).library()) else {
                self.host.synchronize_rcu();
                // SAFETY: Y1: the readers have ended.
                return unsafe { self.kvfree(at) };
            };
            // Others may have given one meanwhile.
            let spare = self.locked(&self.waiting, |waiting| waiting.new.give(machine, page))?;
            spare.inspect(|&page| self.give_frame(page));
        }
        let _ = self.free_ready(STEP);
        Ok(())
    }

    /// Waits until all blocks are freed that were given before this. By a task.
    ///
    /// # Errors
    /// [`Error::WrongContext`].
    ///
    /// # Source
    /// `kvfree_rcu_barrier`.
    pub fn kvfree_rcu_barrier(&self) -> Result<(), Error> {
        let _call = self.enter("kvfree_rcu_barrier", &[]);
        self.not_in_interrupt()?;
        while self.free_ready(usize::MAX)? || self.is_freeing() {
            self.host.synchronize_rcu();
            // Who frees may be another task of a host without grace periods.
            self.machine().relax();
        }
        Ok(())
    }

    /// Whether some CPU is freeing a block that was ready.
    fn is_freeing(&self) -> bool {
        self.rcu_freeing.load(Acquire) > 0 && !breaks!(BarrierEarly)
    }

    /// Frees up to `most` blocks whose grace period has passed. Whether others wait.
    fn free_ready(&self, most: usize) -> Result<bool, Error> {
        let mut freed = 0;
        loop {
            let (next, waits) = self.locked(&self.waiting, |waiting| {
                let waits = waiting.advance(&self.host, &self.rcu_heads);
                let next = if freed < most { self.next_ready(&mut waiting.ready) } else { None };
                if next.is_some() {
                    // Under the lock: whoever finds the list empty knows that.
                    self.rcu_freeing.fetch_add(1, Relaxed);
                }
                (next, waits)
            })?;
            let Some(next) = next else { return Ok(waits) };
            freed += 1;
            self.free_waited(next);
            self.rcu_freeing.fetch_sub(1, Release);
        }
    }

    fn free_waited(&self, ready: Ready) {
        let block = match ready {
            Ready::Block(block) => block,
            Ready::Page(page) => return self.give_frame(page),
            Ready::Lost(head) => {
                let line =
                    format_args!("kvfree_rcu: the head at {head:#x} was written over; blocks behind it are lost");
                return self.printk(Kern::Err, line);
            }
        };
        // SAFETY: Y1: it was its giver's to free, and the grace period has passed.
        let free = || unsafe { self.kvfree(with_exposed_provenance(block)) };
        let freed = match free() {
            // That was told, and nobody is left to free it again (J9).
            Err(Error::OutOfBounds { .. }) => free(),
            freed => freed,
        };
        if let Err(error) = freed {
            self.printk(Kern::Err, format_args!("kvfree_rcu: {block:#x}: {error}"));
        }
    }

    /// The next of what is ready.
    fn next_ready(&self, ready: &mut List) -> Option<Ready> {
        if let Some((block, page)) = ready.pop(self.machine()) {
            return Some(page.map_or(Ready::Block(block), Ready::Page));
        }
        let head = take(&mut ready.head);
        if head == 0 {
            return None;
        }
        let Some((block, before)) = self.take_head(head) else { return Some(Ready::Lost(head)) };
        ready.head = before;
        Some(Ready::Block(block))
    }

    /// Reads a head, which is none from here on.
    fn take_head(&self, head: usize) -> Option<(usize, usize)> {
        let is_area = self.is_vmalloc_addr(with_exposed_provenance(head));
        let place = if is_area { Place::Area(head) } else { Place::Direct(head) };
        // J21: the block that the head lies in is whole.
        let (block, before) = self.read_head(place).ok()?;
        let most = self.total_pages().saturating_mul(PAGE_SIZE);
        let is_head = block.is_multiple_of(WORD) && head.checked_sub(block).is_some_and(|offset| offset < most);
        if is_head { self.write_place(place, &[0; RCU_HEAD]).ok().map(|()| (block, before)) } else { None }
    }

    /// Frees all blocks that wait: nobody reads any more.
    pub(crate) fn free_all_waiting(&mut self) {
        let mut lists = {
            let Waiting { new, waiting, ready, .. } = self.waiting.get_mut();
            [take(new), take(waiting), take(ready)]
        };
        lists[0].head = take(self.rcu_heads.get_mut());
        for list in &mut lists {
            while let Some(ready) = self.next_ready(list) {
                self.free_waited(ready);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use vmalloc::Config;
    use vmalloc::table::X86_64;
    use vmalloc_sim::{Booted, Rates, Sim};

    #[test]
    fn a_page_that_another_task_gave_meanwhile_is_filled_before_the_next_one_is_taken() {
        let sim: Sim<X86_64> = Sim::builder().rates(Rates::NEVER).build();
        let start = 0xffff_c900_0000_0000;
        let booted = Booted::new(sim.clone(), Config::region(start..start + (1 << 30))).unwrap();
        let kernel = Kernel::new(&booted, crate::host::Bare);
        let page = || kernel.bookkeeping_frame(GfpFlags::KERNEL.library()).unwrap();
        let mut list = List::default();
        assert!(!list.push(&sim, 1), "it has no page");
        assert_eq!(list.give(&sim, page()), None);
        assert!(list.push(&sim, 1));
        let other = page();
        assert_eq!(list.give(&sim, other), Some(other), "the other one comes back");
        for block in 2..=IN_PAGE {
            assert!(list.push(&sim, block));
        }
        assert!(!list.push(&sim, 0));
        assert_eq!(list.give(&sim, other), None);
        assert!(list.push(&sim, IN_PAGE + 1));
        let mut blocks = std::vec::Vec::new();
        while let Some((block, page)) = list.pop(&sim) {
            match page {
                Some(page) => kernel.give_frame(page),
                None => blocks.push(block),
            }
        }
        assert!(blocks.into_iter().eq((1..=IN_PAGE + 1).rev()) && list.is_empty());
    }
}

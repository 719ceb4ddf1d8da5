//! The newer cases: frees after a grace period, requests that must not wait, areas that are
//! resized.

use crate::{Error, Ground, Random, Suite};
use core::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{AllocError, Gfp, Req};
use vmalloc_kernel::{GfpFlags, Host, Kernel};

/// What is stored to an area that is resized.
const MARK: u64 = 0x6b;

/// The ground's readers, as the subsystem asks for them.
struct Readers<'g, G>(&'g G);

impl<G: Ground> Host for Readers<'_, G> {
    fn rcu_begin(&self) -> u64 {
        self.0.grace_begins()
    }
    fn rcu_passed(&self, number: u64) -> bool {
        self.0.grace_has_passed(number)
    }
    fn synchronize_rcu(&self) {
        let number = self.0.grace_begins();
        while !self.0.grace_has_passed(number) {
            core::hint::spin_loop();
        }
    }
}

impl<M: Machine, G: Ground> Suite<'_, M, G> {
    /// Pages that are freed after a grace period, by a head in them or without.
    #[inline(never)]
    pub(crate) fn kvfree_rcu(&self, loops: usize, with_head: bool) -> Result<(), Error> {
        let kernel = Kernel::new(self.vm, Readers(self.ground));
        let ran = self.repeat(loops, || {
            let area = kernel.vmalloc(PAGE_SIZE)?;
            self.ground.store(area, 1);
            let at = area.as_ptr();
            // SAFETY: Y1: a case tells nobody of its areas.
            let freed = unsafe {
                match with_head {
                    true => kernel.kvfree_rcu(at, at.addr()),
                    false => kernel.kvfree_rcu_mightsleep(at),
                }
            };
            Ok(freed?)
        });
        ran.and(Ok(kernel.kvfree_rcu_barrier()?))
    }

    /// A page for who must not wait, with preemption off.
    #[inline(never)]
    pub(crate) fn no_block(&self, loops: usize) -> Result<(), Error> {
        let mut random = Random::new(self.seed);
        self.repeat(loops, || {
            let gfp = if random.up_to(2) == 1 { Gfp::ATOMIC } else { Gfp::NOWAIT };
            let req = Req::pages(1).gfp(gfp | Gfp::HIGHMEM | Gfp::NOWARN);
            self.ground.preempt(false);
            let made = self.vm.alloc(req);
            self.ground.preempt(true);
            match made {
                Ok(area) => {
                    self.ground.store(area, 1);
                    self.free(area)
                }
                Err(AllocError::NoAddresses { .. } | AllocError::WouldWait(..)) => self.expected(),
                Err(AllocError::NoFrames { .. } | AllocError::NoTables { .. }) => self.expected(),
                Err(why) => Err(why.into()),
            }
        })
    }

    /// A refusal that is no fault.
    fn expected(&self) -> Result<(), Error> {
        self.refused.set(true);
        Ok(())
    }

    /// An area of a page that grows to four pages, shrinks to one, to a half, and grows to one.
    #[inline(never)]
    pub(crate) fn vrealloc(&self, loops: usize) -> Result<(), Error> {
        const SIZES: [usize; 4] = [4 * PAGE_SIZE, PAGE_SIZE, PAGE_SIZE / 2, PAGE_SIZE];
        let kernel = Kernel::new(self.vm, Readers(self.ground));
        self.repeat(loops, || {
            let mut area = kernel.vmalloc(PAGE_SIZE)?;
            self.ground.store(area, MARK);
            for size in SIZES {
                match self.resized(&kernel, area, size) {
                    Ok(now) => area = now,
                    Err(why) => {
                        // SAFETY: Y1: the old one is as it was.
                        return unsafe { kernel.vfree(area.as_ptr()) }.map_err(Error::from).and(Err(why));
                    }
                }
            }
            let kept = self.ground.load(area) == MARK;
            self.ground.store(area, 1);
            // SAFETY: Y1: a case tells nobody of its areas.
            unsafe { kernel.vfree(area.as_ptr()) }?;
            if kept { Ok(()) } else { Err(Error::Lost) }
        })
    }

    fn resized(
        &self,
        kernel: &Kernel<'_, M, Readers<'_, G>>,
        area: NonNull<u8>,
        size: usize,
    ) -> Result<NonNull<u8>, Error> {
        // SAFETY: Y4: only what is returned is used.
        let now = unsafe { kernel.vrealloc(area.as_ptr(), size, GfpFlags::KERNEL) }?;
        now.ok_or(Error::Lost)
    }
}

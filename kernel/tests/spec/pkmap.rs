//! A flush of the permanent kmap that comes in the middle of something.

use crate::common::number;
use crate::kmap::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use vmalloc::error::AllocError;
use vmalloc::table::X86_32;
use vmalloc::units::VirtAddr;
use vmalloc_kernel::Error;
use vmalloc_kernel::kmap::Pkmap;
use vmalloc_sim::{Rates, Sim};

/// The address of a pkmap, for a handler that outlives no test.
struct Shared(*const Pkmap<'static, Sim<X86_32>, Task>);
// SAFETY: the simulator's CPUs are one thread.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Flushes; how many unused entries are left.
    fn flush_unused(&self) -> Result<usize, Error> {
        // SAFETY: the test takes the handler off before the pkmap goes.
        let pkmap = unsafe { &*self.0 };
        pkmap.flush_unused()?;
        Ok(counts(pkmap, 8).iter().filter(|&&count| count == 1).count())
    }
}

#[test]
fn flush_unused_in_the_middle_of_a_kmap_is_refused_or_has_flushed() {
    let refused = Arc::new(AtomicU32::new(0));
    for (nmi, n) in [true, false].into_iter().flat_map(|nmi| (1..40).map(move |n| (nmi, n))) {
        let rates = if nmi { Rates::NEVER } else { Rates { interrupt: 2, ..Rates::NEVER } };
        let rig = rig_with(1, rates);
        let kernel = rig.kernel();
        let pkmap = rig.pkmap(&kernel, 8);
        let frames = rig.high(3);
        let unused = kmap(&pkmap, frames[0]).unwrap();
        rig.store(unused, 5);
        kunmap(&pkmap, frames[0]).unwrap();
        let (shared, counter) = (Shared((&raw const pkmap).cast()), refused.clone());
        let flushes = move || match shared.flush_unused() {
            Ok(left) => assert_eq!(left, 0, "unused entries are left"),
            Err(error) => {
                assert!(matches!(error, Error::WrongContext(_) | Error::Alloc(AllocError::WouldWait(..))), "{error}");
                counter.fetch_add(matches!(error, Error::WrongContext(_)) as u32, SeqCst);
            }
        };
        match nmi {
            true => rig.sim.set_nmi(n, move |_| flushes()),
            false => rig.booted.set_interrupt(move |_, _| flushes()),
        }
        let used = kmap(&pkmap, frames[1]).unwrap();
        rig.sim.set_nmi(0, |_| ());
        rig.booted.set_interrupt(|_, _| ());
        rig.store(used, 6);
        let again = kmap(&pkmap, frames[0]).unwrap();
        assert_eq!((rig.load(again), rig.load(used)), (5, 6));
        kunmap(&pkmap, frames[0]).unwrap();
        kunmap(&pkmap, frames[1]).unwrap();
        pkmap.flush_unused().unwrap();
        assert!(counts(&pkmap, 8).iter().all(|&count| count == 0));
        [unused, used, again].iter().for_each(|&at| rig.sim.assert_faults(0, VirtAddr(number(at))));
        // Every entry serves again.
        frames.iter().for_each(|&frame| rig.store(kmap(&pkmap, frame).unwrap(), frame.0));
        drop(pkmap);
        drop(kernel);
        rig.give(&frames);
        rig.end();
    }
    assert!(refused.load(SeqCst) > 10, "{refused:?} were refused");
}

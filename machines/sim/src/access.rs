//! Programs: what they load and store, and the time that passes between.

use crate::cache::How;
use crate::cpu::Power;
use crate::judge::accuse;
use crate::{Core, Fault, Why};
use core::ptr::NonNull;
use vmalloc::machine::format::{Format, Prot};
use vmalloc::units::{PAGE_SIZE, Pfn, VirtAddr};

/// Simulated nanoseconds of a step.
const STEP_NS: u64 = 1_000;

impl<F: Format> Core<F> {
    /// The eight bytes at `at`, as `cpu` sees them.
    ///
    /// # Errors
    /// Where the access faults.
    pub fn load(&self, cpu: u32, at: VirtAddr) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.read_bytes(cpu, at, &mut bytes).map(|()| u64::from_le_bytes(bytes))
    }

    /// Stores eight bytes at `at` by way of `cpu`.
    ///
    /// # Errors
    /// Where the access faults.
    pub fn store(&self, cpu: u32, at: VirtAddr, value: u64) -> Result<(), Fault> {
        self.write_bytes(cpu, at, &value.to_le_bytes())
    }

    /// Loads `into.len()` bytes from `at` on.
    ///
    /// # Errors
    /// At the first page that faults; those before it have been read.
    pub fn read_bytes(&self, cpu: u32, at: VirtAddr, into: &mut [u8]) -> Result<(), Fault> {
        for (at, range) in pieces(at, into.len()) {
            let from = self.access(cpu, at, false)?;
            let into = &mut into[range];
            // SAFETY: `access` answers bytes of the simulated memory, and a
            // piece ends where its page does.
            unsafe { from.copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) }
        }
        Ok(())
    }

    /// Stores `from` at `at` and on.
    ///
    /// # Errors
    /// At the first page that faults; those before it have been written.
    pub fn write_bytes(&self, cpu: u32, at: VirtAddr, from: &[u8]) -> Result<(), Fault> {
        for (at, range) in pieces(at, from.len()) {
            let into = self.access(cpu, at, true)?;
            let from = &from[range];
            // SAFETY: as for reading.
            unsafe { into.copy_from_nonoverlapping(from.as_ptr(), from.len()) }
        }
        Ok(())
    }

    /// Where the bytes from `at` to the end of its page are now, as `cpu` sees them: for what a
    /// kernel reads through an address that it has just mapped.
    ///
    /// # Errors
    /// Where a load faults.
    pub fn reach(&self, cpu: u32, at: VirtAddr) -> Result<NonNull<u8>, Fault> {
        let bytes = self.access(cpu, at, false)?;
        Ok(NonNull::new(bytes).expect("memory of the host"))
    }

    /// Panics, with the story, unless `at` faults on `cpu`: for guards, and
    /// for whatever else must not be there.
    pub fn assert_faults(&self, cpu: u32, at: VirtAddr) {
        if let Ok(value) = self.load(cpu, at) {
            let (place, now) = self.truth(at, 1);
            let story = self.state().history.story(at, &[]);
            accuse(&format!(
                "guard: CPU {cpu} reads {value:#x} at {at}, where nothing may be\n  \
                 the tables say, at level {}: {now:?}\n  events of the page:\n{story}",
                place.level
            ));
        }
    }

    /// `cpu` picks up some present entry near what was used lately, and
    /// whatever tables lead there. Offline CPUs do not.
    pub fn speculate(&self, cpu: u32) {
        self.guess(&mut self.state(), cpu);
    }

    /// Judges everything that every CPU remembers, at the price of a walk
    /// each.
    ///
    /// # Panics
    /// With the story of the first entry that is stale and could do harm.
    pub fn audit(&self) {
        self.judge_all(&self.state());
    }

    /// A little time passes: CPUs speculate and forget, pending kicks may be
    /// served, an interrupt may come, on any CPU.
    pub fn step(&self) {
        let cpu = {
            let s = &mut *self.state();
            s.clock += STEP_NS;
            s.turns = 0;
            let cpu = s.rng.below(s.cpus.len() as u64) as u32;
            if s.rng.one_in(s.rates.evict) {
                self.evict(s, cpu);
            }
            self.guess(s, cpu);
            cpu
        };
        self.on(cpu, || self.maybe_interrupt());
    }

    /// Serves every kick that is pending on a CPU that listens.
    pub fn serve_kicks(&self) {
        let cpus = self.state().cpus.len() as u32;
        (0..cpus).for_each(|cpu| self.serve_kick(cpu));
    }

    /// The bytes behind `at` up to the end of its page, if `cpu` may use them.
    fn access(&self, cpu: u32, at: VirtAddr, write: bool) -> Result<*mut u8, Fault> {
        let s = &mut *self.state();
        if s.cpu(cpu).power != Power::Awake {
            accuse(&format!("CPU {cpu} uses {at} while it is {:?}", s.cpu(cpu).power));
        }
        s.counters.accesses += 1;
        s.used(at);
        let mut found = self.translate(s, cpu, at, How::Access);
        if matches!(found, Err(Why::NotPresent { .. })) && self.copy_on_fault(cpu, at) {
            found = self.translate(s, cpu, at, How::Access);
        }
        let (frame, prot) = found.map_err(|why| Fault { at, why })?;
        if write && !prot.contains(Prot::WRITE) {
            return Err(Fault { at, why: Why::ReadOnly });
        }
        Ok(self.byte(frame, at))
    }

    fn byte(&self, frame: Pfn, at: VirtAddr) -> *mut u8 {
        let Some(bytes) = self.memory.bytes(frame) else { panic!("{at} is bound to {frame:?}, where no memory is") };
        bytes.as_ptr().wrapping_add(at.0 % PAGE_SIZE)
    }
}

/// `len` bytes from `at` on, cut where pages end: the address of each piece
/// and which of the bytes it is.
fn pieces(at: VirtAddr, len: usize) -> impl Iterator<Item = (VirtAddr, core::ops::Range<usize>)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let start = VirtAddr(at.0.wrapping_add(done));
        let from = done;
        done += (PAGE_SIZE - start.0 % PAGE_SIZE).min(len - done);
        (from < done).then_some((start, from..done))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_cut_where_pages_end() {
        let cut: Vec<_> = pieces(VirtAddr(0x1ffe), 0x1004).map(|(at, range)| (at.0, range)).collect();
        assert_eq!(cut, [(0x1ffe, 0..2), (0x2000, 2..0x1002), (0x3000, 0x1002..0x1004)]);
        assert_eq!(pieces(VirtAddr(0), 0).count(), 0);
    }
}

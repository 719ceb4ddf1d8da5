//! The direct mapping of frames whose permissions an embedder changes, and what CPUs still
//! remember of it.
//!
//! Only frames whose permissions were changed, and have not been given back, are known here: all
//! others can be stored to directly, and executed where somebody maps them so. A frame that is
//! known may not be executed through a page while any CPU that is awake can store to it directly.

use crate::cache::Cached;
use crate::cpu::State;
use crate::judge::accuse;
use crate::{Core, Sim};
use std::collections::HashMap;
use vmalloc::machine::format::{Format, Prot};
use vmalloc::units::Pfn;

/// What the direct mapping of a frame allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direct {
    /// Loads and stores, as of every frame.
    Writable,
    /// Loads.
    ReadOnly,
    /// Nothing.
    Gone,
}

/// The frames whose direct mapping was changed: what it allows, and the CPUs, a bit each, that
/// may remember that it allowed stores.
#[derive(Debug, Default)]
pub(crate) struct Directs(HashMap<Pfn, (Direct, u64)>);

impl Directs {
    /// `cpu` has flushed everything.
    pub(crate) fn flushed(&mut self, cpu: u32) {
        self.0.values_mut().for_each(|(_, remember)| *remember &= !(1 << cpu));
    }

    /// Whether nothing at all is mapped directly to the frame.
    pub(crate) fn is_gone(&self, frame: Pfn) -> bool {
        self.0.get(&frame).is_some_and(|known| known.0 == Direct::Gone)
    }
}

impl State {
    /// Whether some CPU that is awake can store to a frame that is known.
    fn is_directly_writable(&self, frame: Pfn) -> bool {
        self.directs.0.get(&frame).is_some_and(|&(now, remember)| {
            let remembers = |(n, cpu): (usize, &crate::cpu::Cpu)| remember >> n & 1 != 0 && cpu.power.reaches(1);
            now == Direct::Writable || self.cpus.iter().enumerate().any(remembers)
        })
    }

    /// Panics if a page that may be executed is remembered of a frame that can be stored to.
    pub(crate) fn judge_direct(&self, cached: &Cached) {
        if cached.level == 1 && cached.prot.contains(Prot::EXEC) && self.is_directly_writable(cached.frame) {
            let (page, frame) = (cached.prefix, cached.frame);
            accuse(&format!(
                "page {page:#x} is executable, and its {frame:?} is writable by way of the direct mapping"
            ));
        }
    }
}

impl<F: Format> Sim<F> {
    /// The direct mapping of `frame` allows something else; CPUs may use what it allowed until they
    /// flush.
    ///
    /// # Panics
    /// If a CPU could now store to the frame and execute it.
    pub fn set_direct(&self, frame: Pfn, to: Direct) {
        let s = &mut *self.state();
        let (was, remember) = s.directs.0.get(&frame).copied().unwrap_or((Direct::Writable, 0));
        let lost = was == Direct::Writable && to != Direct::Writable;
        s.directs.0.insert(frame, (to, if lost { u64::MAX } else { remember }));
        s.cpus.iter().filter(|cpu| cpu.power.reaches(1)).for_each(|cpu| {
            cpu.entries().filter(|cached| cached.frame == frame).for_each(|cached| s.judge_direct(&cached));
        });
        if to == Direct::Writable {
            s.directs.0.remove(&frame);
        }
    }
}

impl<F: Format> Core<F> {
    /// The frames whose direct mapping is not as usual.
    pub fn odd_directs(&self) -> usize {
        self.state().directs.0.len()
    }
}
